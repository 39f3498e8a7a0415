import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The firewall half's log rule, what it refuses, and what it proves of itself. */
class FirewallHalfTest extends InFirewallHalf {
    @Test
    void theLogRuleOnlyLogsAndComesBeforeAllThatCouldHideAKnock() throws Exception {
        lab.must("nft", "-c", "-f", "knockknock.nft");
        start("22");
        var table = table();
        for (var part : List.of("type filter hook prerouting priority -350; policy accept;",
                "tcp dport { 666, 667 } tcp flags == syn fib daddr type local update @seen4 { "
                        + "ip saddr limit rate 50/second burst 100 packets }",
                "update @seen6 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate 50/second burst "
                        + "100 packets }",
                "log prefix \"knockknock: \" level debug flags tcp sequence,options flags ip "
                        + "options\n")) {
            assertTrue(table.contains(part), part + " in " + table);
        }
        // without knock_address nobody's
        var carrier = "ip6 daddr ::/64 fib daddr type != local drop\n";
        assertTrue(table.contains(carrier), table);
        assertFalse(Pattern.compile("\\b(drop|reject|queue|return|jump|flags owner)\\b")
                .matcher(table.replace(carrier, "")).find(), table);
    }

    @Test
    void whatAKillLeavesOnlyLogsAndIsReplacedAtTheNextStart() throws Exception {
        var before = rules();
        start("22");
        var table = table();
        half.destroyForcibly().waitFor();
        assertEquals(table, table());
        start("22");
        assertNotEquals(table, table());
        assertEquals(nameless(table), nameless(table()));
        half.getOutputStream().close();
        half.waitFor();
        assertEquals(before, rules());
    }

    @ParameterizedTest
    @ValueSource(strings = {"TERM", "INT", "HUP", ""})
    void itTakesTheLogRuleAwayWhenTheRequestsEndAndAtASignal(String signal) throws Exception {
        var before = rules();
        start("22");
        assertEquals(0, ask(Lab.CLIENT, 22));
        if (signal.isEmpty()) {
            half.getOutputStream().close();
        } else {
            lab.must("kill", "-" + signal, "" + half.pid());
        }
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(before, rules());
        assertEquals("", said());
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "3 | nft flush ruleset",
        // as VPN programs and admins do
        "3 | nft list ruleset > dump; nft flush ruleset; nft -f dump",
        "3 | nft list table inet knockknock > dump; nft -f dump",
        "3 | nft flush table inet knockknock",
        "3 | nft -a list table inet knockknock > list; nft delete rule inet knockknock $chain "
                + "handle $(sed -n '0,/.* ip options # handle /s///p' list)",
        "6 | nft delete table inet knockknock; nft -f old"}) // a dump of another start's
    void aLogRuleThatWasChangedIsMadeAnewAndTheHostsRulesStay(int rules,
            String change) throws Exception {
        loadHostsTable();
        start("22");
        Files.writeString(lab.work.resolve("old"), table());
        half.getOutputStream().close();
        half.waitFor();
        start("22");
        var hosts = rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", "");
        var chain = Pattern.compile("(?ms)^\tchain (k[0-9a-f]{16}) \\{.*?^\t\\}\n")
                .matcher(table());
        assertTrue(chain.find());
        lab.mustOn("server", "sh", "-euc", "cd " + lab.work + "; chain=" + chain.group(1) + "; "
                + change);
        Lab.await(() -> "the log rule in " + rules(), () -> rules().contains(chain.group())
                && rules().split("log prefix \"knockknock: \"", -1).length == 1 + rules);
        assertTrue(said().contains("knockknock: the log rule was changed: it is made anew\n"),
                said());
        if (!change.endsWith("flush ruleset")) {
            assertEquals(hosts, rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", ""));
        }
        assertEquals(0, ask(Lab.CLIENT, 22));
    }

    @Test
    void allButOneHostAnAddressOfThisHostAndAnAllowedPortIsRefused() throws Exception {
        start("22,443");
        for (var source : List.of("0.0.0.0", "127.0.0.1", "127.8.8.8", "224.0.0.1",
                "239.255.255.255", "255.255.255.255", "::", "::1",
                "ff02::1", "ff0e::1")) {
            assertEquals(EACCES, ask(source, 22), source);
        }
        for (var destination : List.of("127.0.0.1", "192.0.2.3", "192.0.2.255", "0.0.0.0",
                "255.255.255.255", "224.0.0.1", Lab.SERVER6, Lab.CLIENT)) {
            assertEquals(EACCES, ask(record(Lab.CLIENT, destination, 22)), destination);
        }
        for (var destination : List.of("::1", "2001:db8::3", "::", "ff02::1", Lab.SERVER)) {
            assertEquals(EACCES, ask(record(Lab.CLIENT6, destination, 22)), destination);
        }
        for (int port : new int[] {0, 1, 21, 23, 442, 65535}) {
            assertEquals(EACCES, ask(Lab.CLIENT, port), "port " + port);
        }
        assertEquals(0, expectations());
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT6, 443));
        assertEquals(2, expectations());
    }

    @Test
    void aMillionRandomRecordsOpenNothingAndCostNoMemory() throws Exception {
        start("22,443");
        assertEquals(EACCES, ask("127.0.0.1", 22));
        long before = residentKilobytes();
        var random = new Random(3);
        var sources = List.of(mapped(Lab.CLIENT), mapped("127.0.0.1"), mapped("224.0.0.1"),
                mapped(Lab.CLIENT6), new byte[16]);
        var writer = Thread.startVirtualThread(() -> {
            try {
                var record = new byte[34];
                for (int i = 0; i < 1_000_000; i++) {
                    random.nextBytes(record);
                    // a source that is one, but never this host's address with an allowed port
                    if (i % 4 == 0) {
                        System.arraycopy(sources.get(random.nextInt(sources.size())), 0, record, 0,
                                16);
                    }
                    half.getOutputStream().write(record);
                }
                half.getOutputStream().flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        });
        var answers = new byte[1_000_000];
        new DataInputStream(half.getInputStream()).readFully(answers);
        writer.join();
        for (byte answer : answers) {
            assertEquals(EACCES, answer);
        }
        assertEquals(0, expectations());
        assertTrue(residentKilobytes() < before + 30_000, before + " KB -> " + residentKilobytes()
                + " KB");
        assertEquals(0, ask(Lab.CLIENT, 22));
    }

    @Test
    void aTruncatedRecordOpensNothing() throws Exception {
        start("1-65535");
        half.getOutputStream().write(record(Lab.CLIENT, Lab.SERVER, 22), 0, 33);
        half.getOutputStream().close();
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(-1, half.getInputStream().read());
        assertEquals(0, expectations());
    }

    @ParameterizedTest
    @CsvSource({
        "--reuid=nobody, --reuid=root", "--regid=nogroup, --regid=root",
                "--clear-groups, --groups=0", "--no-new-privs, --",
        "--bounding-set=-all, --bounding-set=-all,+net_raw",
                "--inh-caps=-all, --inh-caps=-all,+net_raw"})
    void withAPrivilegeTooManyItEndsBeforeAnythingElse(String word,
            String instead) throws Exception {
        var setpriv = SETPRIV.stream().map(option -> option.equals(word) ? instead
                : word.contains("=-all") && option.startsWith(word) ? option + ",+net_raw"
                : word.startsWith("--inh") && option.startsWith("--bounding-set=") ? option
                        + ",+net_raw" : option).toList();
        var before = rules();
        half = new ProcessBuilder(command(setpriv, "22"))
                .redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(EIO, half.getInputStream().read());
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(1, half.exitValue());
        assertEquals("knockknock: the firewall half: takes CAP_NET_ADMIN alone: have "
                + "knockknock-daemon start it\n", said());
        assertEquals(before, rules());
    }

    @Test
    void withoutTheCapabilityItSaysSoAtOnce() throws Exception {
        var setpriv = SETPRIV.stream().filter(word -> !word.contains("-caps=")).toList();
        half = new ProcessBuilder(command(setpriv, "22"))
                .redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(EIO, half.getInputStream().read());
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertTrue(said().startsWith(
                "knockknock: the firewall half: the kernel refused bind (EPERM)"), said());
    }

    @Test
    void runByHandItSaysWhoStartsIt() throws Exception {
        var command = command(List.of("--"), "22");
        var byHand = lab.run(command.subList(0, command.indexOf("KnockknockFirewall") + 1));
        assertEquals(1, byHand.exit());
        assertEquals("knockknock: the firewall half: takes CAP_NET_ADMIN alone: have "
                + "knockknock-daemon start it\n", byHand.err());
    }

    @Test
    void itLoadsNoClassButTheJdksAndItsOwn() throws Exception {
        var log = Files.createFile(lab.work.resolve("classes"));
        lab.must("chmod", "666", log.toString());
        start("1-65535", "-Xlog:class+load:file=" + log);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(EACCES, ask("127.0.0.1", 22));
        lab.mustOn("server", "nft", "flush", "ruleset");
        Lab.await("the log rule to be made anew", () -> said().contains("it is made anew"));
        half.getOutputStream().close();
        half.waitFor();
        var foreign = Files.readAllLines(log).stream().filter(line -> line.contains(" source: "))
                .filter(line -> !line.contains("source: jrt:/")
                        && !line.contains("source: shared objects file")
                        && !line.contains("source: __")
                        && !line.matches(".*source: (java|jdk|sun)\\..*"))
                .toList();
        assertTrue(foreign.stream().anyMatch(line ->
                line.contains(" KnockknockFirewall source: file:")), foreign.toString());
        assertTrue(foreign.stream().allMatch(line ->
                line.matches(".* (KnockknockFirewall|Netfilter|Openings|Libc|Failure)\\b.*")),
                foreign.toString());
    }
}
