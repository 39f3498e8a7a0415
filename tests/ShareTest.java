import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Several clients of one server: a crowd at once, two behind one address, a greedy one. */
class ShareTest extends InFirewall {
    @ParameterizedTest
    @ValueSource(strings = {"drop", "tcp dport 22 reject with tcp reset"})
    void ofFiftyWhoKnockAtOnceFiftyGetInAndWhereTheHostRejectsSomeTryAgain(
            String policy) throws Exception {
        nft(TABLE.replace("}; }", policy + "; }; }"));
        serve("server");
        lab.config("delay = 15");
        lab.startDaemon();
        assertClosed("before");
        var clients = new ArrayList<Process>();
        for (int i = 0; i < 50; i++) {
            var address = ADDRESSES.get(i % 2);
            // nice, as a real server has processors of its own beside the 50 JVMs
            var command = new ArrayList<>(List.of("nice", "-n", "19", "sh", "-c",
                    "\"$@\" && for i in 1 2 3 4 5; do ip netns exec client nc -z -w 15 " + address
                            + " 22 && exit;"
                            + " echo try again; sleep 0.2; done; exit 1", "sh"));
            command.addAll(List.of(lab.knockCommand("-p", "22", address)));
            clients.add(lab.start(lab.work.resolve("clients"), command));
        }
        int in = 0;
        for (var client : clients) {
            in += client.waitFor(60, TimeUnit.SECONDS) && client.exitValue() == 0 ? 1 : 0;
        }
        assertEquals(50, in, Files.readString(lab.work.resolve("clients")) + lab.said());
        if (policy.equals("drop")) {
            assertEquals("", Files.readString(lab.work.resolve("clients")),
                    "nobody has to try again");
        }
        assertClosed("behind the last");
        assertAccepted(50);
    }

    @Test
    void twoProfilesBehindOneAddressLetOneConnectionInEach() throws Exception {
        lab.profile("phone", 7001, "phone");
        lab.config("delay = 30"); // longer than four JVMs take on a slow machine
        serve("server");
        lab.startDaemon();
        for (var profile : List.of("laptop", "phone")) {
            useProfile(profile);
            for (var address : ADDRESSES) {
                long before = counter(profile);
                lab.must(lab.knockCommand("-p", "22", address));
                Lab.await("the knock", () -> counter(profile) == before + 1);
            }
        }
        assertOpen("for one");
        assertEquals(4, lab.said("opened port 22"), lab.said());
        assertOpen("for the other");
        assertClosed("behind both");
        assertAccepted(4);
    }

    /** What a profile takes next. */
    private long counter(String profile) throws IOException {
        return Long.parseLong(Files.readString(lab.dir.resolve("profiles/" + profile + "/counter"))
                .strip());
    }

    @Test
    void aQuarterOfAllOpeningsIsForOneProfileAndOthersStillGetIn() throws Exception {
        lab.profile("phone", 7001, "phone");
        lab.config("delay = 60");
        serve("server");
        append("");
        lab.must("chmod", "644", lab.kernLog.toString());
        lab.startDaemon("--log", lab.kernLog.toString());
        Lab.await("tail", () -> lab.daemon().descendants().count() == 2);
        append(lines("laptop", 7000, 0, 40)); // 20 for each address of one port
        append(lines("laptop", 7000, 40, 260).replace("SRC=192.0.2.2", "SRC=192.0.2.3")
                .replace("SRC=2001:db8::2", "SRC=2001:db8::3"));
        Lab.await(lab::said, () -> counter("laptop") == 260 && lab.said("profile laptop") == 260);
        assertEquals(140, lab.said("opened port 22"),
                "40, and of 220 those 50 that may wait for one address and port");
        assertEquals(120, lab.said("refused, as too many openings are not over: port 22"));
        var others = new StringBuilder();
        for (int host = 4; host < 7; host++) {
            others.append(lines("laptop", 7000, 260 + 50 * (host - 4), 310 + 50 * (host - 4))
                    .replace("SRC=192.0.2.2", "SRC=192.0.2." + host)
                    .replace("SRC=2001:db8::2", "SRC=2001:db8::" + host));
        }
        append(others.toString());
        Lab.await(lab::said, () -> counter("laptop") == 410 && lab.said("profile laptop") == 410);
        assertEquals(250, lab.said("opened port 22"));
        assertEquals(40, lab.said("refused, as too many openings of this profile are not over: "
                + "port 22"));
        append(lines("phone", 7001, 0, 2).replace("SRC=192.0.2.2", "SRC=192.0.2.9"));
        Lab.await(lab::said, () -> lab.said("opened port 22 for 192.0.2.9, profile phone") == 1);
        for (int i = 0; i < 20; i++) {
            assertOpen("for the first forty");
        }
    }

    private void append(String text) throws IOException {
        Files.writeString(lab.kernLog, text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    /** What the kernel would log for knocks with these counters, by turns over IPv4 and IPv6. */
    private String lines(String profile, int knockPort, int from, int to) throws Exception {
        var codec = Lab.credentials(lab.dir.resolve("profiles").resolve(profile)).codec();
        var lines = new StringBuilder();
        for (int counter = from; counter < to; counter++) {
            var f = codec.seal(22, counter, Carrier.COVER, new byte[0]);
            lines.append(counter % 2 == 0 ? Traces.line(f, knockPort) : Traces.line6(f, knockPort));
        }
        return lines.toString();
    }
}
