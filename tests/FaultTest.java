import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Processes killed, counters that cannot be stored: nothing stays open, nothing is accepted twice.
 */
class FaultTest extends InLogFile {
    @ParameterizedTest
    @CsvSource({
        "daemon, idle", "daemon, knock", "daemon, burst", "half, idle", "half, knock",
                "half, burst",
        "tail, idle", "tail, knock", "tail, burst", "all, idle", "all, knock", "all, burst"})
    void whoeverIsKilledNothingStaysOpen(String victim, String moment) throws Exception {
        lab.serve(22);
        var before = rules();
        startDaemon();
        var all = new ArrayList<>(List.of(lab.daemon().toHandle()));
        lab.daemon().descendants().forEach(all::add);
        if (moment.equals("knock")) {
            append(line(0, 22));
            Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        } else if (moment.equals("burst")) {
            for (int i = 0; i < 50; i++) {
                append(line(i, 22));
            }
        }
        long knocked = System.nanoTime();
        var victims = all.stream().filter(process -> {
            var command = process.info().commandLine().orElse("");
            return victim.equals("all") || command.contains(switch (victim) {
                case "daemon" -> "KnockknockDaemon";
                case "tail" -> "/usr/bin/tail";
                default -> "KnockknockFirewall";
            });
        }).toList();
        assertEquals(victim.equals("all") ? 3 : 1, victims.size());
        victims.forEach(ProcessHandle::destroyForcibly);
        Lab.await("the survivors to end", () -> all.stream().noneMatch(ProcessHandle::isAlive));
        assertTrue(System.nanoTime() - knocked < 4_000_000_000L,
                "survivors must end within a second, or four on a slow machine");
        assertTrue(lab.daemon().waitFor() != 0);
        if (!List.of("all", "daemon").contains(victim)) {
            assertTrue(lab.said("knockknock: ") >= 1, lab.said());
        }
        // what the half leaves then only logs: FirewallHalfTest
        if (List.of("all", "half").contains(victim)) {
            assertEquals(before, rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n",
                    ""));
        } else {
            Lab.await("the table to go", () -> rules().equals(before));
        }
        if (!moment.equals("idle")) {
            TimeUnit.NANOSECONDS.sleep(knocked + Lab.DELAY_MILLIS * 1_000_000 - System.nanoTime());
        }
        assertFalse(lab.connects(Lab.SERVER, 22));

        startDaemon();
        append(line(60, 22));
        Lab.await("a knock after the restart", () -> lab.said("opened port 22") == 1);
        assertTrue(lab.connects(Lab.SERVER, 22));
    }

    @ParameterizedTest
    @ValueSource(strings = {"TERM", "INT"})
    void aStopLeavesTheFirewallAsItWas(String signal) throws Exception {
        var before = rules();
        startDaemon();
        append(line(0, 22));
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        lab.must("kill", "-" + signal, "" + lab.daemon().pid());
        assertTrue(lab.daemon().waitFor(10, TimeUnit.SECONDS));
        assertEquals(before, rules());
    }

    @Test
    void noLineIsAcceptedTwiceThroughTwentyFiveCrashes() throws Exception {
        var random = new Random(7);
        var accepted = new StringBuilder();
        int counter = 0;
        for (int round = 0; round < 25; round++) {
            startDaemon();
            // every replay, and then a new one, which shows that all before it were read
            append(accepted.toString());
            append(line(counter, 1000 + counter++));
            Lab.await("the new knock", () -> lab.said("opened") >= 1);
            assertEquals(1, lab.said("opened"), "round " + round);
            append(line(counter, 1000 + counter));
            TimeUnit.MICROSECONDS.sleep(random.nextInt(5000));
            var all = new ArrayList<>(List.of(lab.daemon().toHandle()));
            lab.daemon().descendants().forEach(all::add);
            lab.daemon().destroyForcibly();
            Lab.await("the crash", () -> all.stream().noneMatch(ProcessHandle::isAlive));
            accepted.append(line(counter - 1, 999 + counter));
            long next = Long.parseLong(Files.readString(lab.dir.resolve("profiles/laptop/counter"))
                    .strip());
            assertTrue(next == counter || next == counter + 1, "round " + round + ": " + next);
            if (next == counter + 1) {
                accepted.append(line(counter, 1000 + counter++));
            }
        }
    }

    @Test
    void nineThousandLostKnocksDoNoHarmAndMoreAreMendedWithACommand() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "open_ports = 22,23");
        startDaemon();
        append(line(9000, 22));
        Lab.await("the knock behind 9,000 lost ones", () -> lab.said("opened port 22") == 1);
        append(line(9001 + 10_100, 23));
        Lab.await("the refusal", () -> lab.said("counter used or more than 10000 ahead") == 1);
        append(line(9001 + 9_999, 23)); // the last that it takes
        Lab.await("the window's last", () -> lab.said("opened port 23") == 1);
        lab.stopDaemon();

        lab.must(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(), "--counter",
                "50000", "laptop"));
        startDaemon();
        append(line(49_999, 22));
        append(line(50_000, 23));
        Lab.await("the knock after the repair", () -> lab.said("opened port 23") == 1);
        assertEquals(0, lab.said("opened port 22"), lab.said());
    }

    @Test
    void aCounterThatCannotBeStoredOpensNothing() throws Exception {
        lab.serve(22);
        startDaemon();
        var counter = lab.dir.resolve("profiles/laptop/counter");
        lab.must("chattr", "+i", counter.toString());
        try {
            append(line(0, 22));
            Lab.await("the refusal", () -> lab.said("refused to open port 22") == 1);
            assertFalse(lab.connects(Lab.SERVER, 22));
        } finally {
            lab.must("chattr", "-i", counter.toString());
        }
        append(line(1, 22));
        Lab.await("a knock when it can be stored again", () -> lab.said("opened port 22") == 1);
        Files.delete(counter);
        append(line(2, 23));
        Lab.await("the refusal", () -> lab.said("refused to open port 23") == 1);
        assertTrue(lab.said().contains("removed or replaced"), lab.said());
    }

    @Test
    void aClientThatCannotStoreItsCounterSendsNothing() throws Exception {
        startDaemon();
        var counter = lab.clientProfile(Lab.SERVER).resolve("counter");
        lab.must("chattr", "+i", counter.toString());
        try {
            var client = lab.run(List.of(lab.knockCommand("-p", "22", Lab.SERVER)));
            assertEquals(1, client.exit());
            assertTrue(client.err().startsWith("knockknock: "), client.err());
        } finally {
            lab.must("chattr", "-i", counter.toString());
        }
        assertFalse(lab.mustOn("server", "nft", "list", "set", "inet", "knockknock", "seen4")
                .contains("elements"),
                "a packet reached the server");
    }
}
