import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;

/** What the firewall half lets in: as many connections as were asked for, each for its time. */
class OpeningsTest extends InFirewallHalf {
    @Test
    void aConnectionThatWasLetInHasNoHelperThatCouldReadIt() throws Exception {
        start("22");
        lab.serve(22);
        assertEquals(0, ask(Lab.CLIENT, 22));
        lab.start(lab.work.resolve("connection"), Lab.on("client", "nc", Lab.SERVER, "22"));
        Lab.await("the connection", () ->
                lab.mustOn("server", "conntrack", "-L", "-p", "tcp", "--dport", "22")
                .contains("ESTABLISHED"));
        var connections = lab.mustOn("server", "conntrack", "-L", "-p", "tcp", "--dport", "22");
        assertFalse(connections.contains("helper="), connections);
        assertTrue(lab.mustOn("server", "conntrack", "-L").contains("helper=ftp"),
                "the master's is shown");
    }

    @Test
    void asManyConnectionsGetInAsWereAskedForAndNoMore() throws Exception {
        start("1-65535");
        lab.serve(22);
        for (var server : List.of(Lab.SERVER, Lab.SERVER6)) {
            var client = server.equals(Lab.SERVER) ? Lab.CLIENT : Lab.CLIENT6;
            assertFalse(lab.connects(server, 22));
            for (int i = 0; i < 3; i++) {
                assertEquals(0, ask(client, 22));
            }
            assertEquals(0, ask(client, 23), "another port has openings of its own");
            for (int i = 0; i < 3; i++) {
                assertTrue(lab.getsIn(server, 22), "connection " + i);
            }
            assertFalse(lab.connects(server, 22));
        }
    }

    @Test
    void aPortOfUdpLetsOneFlowIn() throws Exception {
        start("22,53/udp");
        lab.start(lab.work.resolve("udp"), Lab.on("server", "nc", "-luk", "-p", "53"));
        Lab.await("the service", () -> lab.mustOn("server", "ss", "-Hlun", "sport = :53").lines()
                .count() == 1);
        for (int knocks = 0; knocks < 3; knocks++) {
            if (knocks > 0) {
                assertEquals(0, ask(Lab.CLIENT, 53));
            }
            // from another port, and so another flow
            for (var text : List.of("first of ", "second of ")) {
                lab.mustOn("client", "sh", "-c", "echo " + text + knocks + " | nc -u -w 1 "
                        + Lab.SERVER + " 53");
            }
        }
        assertEquals("first of 1\nfirst of 2\n", Files.readString(lab.work.resolve("udp")));
        lab.serve(53);
        assertEquals(0, ask(Lab.CLIENT, 53));
        assertFalse(lab.connects(Lab.SERVER, 53), "TCP");
    }

    /** Expects a connection from one source port alone; the master is one that has a helper. */
    private static final String NARROWER = """
            import socket, struct, sys
            def attribute(kind, body): return struct.pack('HH', 4 + len(body), kind) + body + \
            bytes(-len(body) % 4)
            def tuple(kind, source, destination, from_port, to_port):
                return attribute(kind | 0x8000, attribute(0x8001, attribute(1, source) + \
            attribute(2, destination))
                    + attribute(0x8002, attribute(1, b'\\6') + attribute(2, struct.pack('>H', \
            from_port)) + attribute(3, struct.pack('>H', to_port))))
            source, destination, own = (socket.inet_aton(address) for address in (sys.argv[1], \
            sys.argv[2], '127.0.0.1'))
            body = (tuple(2, source, destination, 5555, int(sys.argv[3])) + tuple(3, b'\\xff' * 4, \
            b'\\xff' * 4, 65535, 65535)
                + tuple(1, own, own, int(sys.argv[4]), int(sys.argv[5])) + attribute(4, \
            struct.pack('>I', 60)))
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            netlink.send(struct.pack('IHHIIBBH', 20 + len(body), 0x200, 0x605, 0, 0, 2, 0, 0) + \
            body)
            sys.exit(-struct.unpack_from('i', netlink.recv(8192), 16)[0])
            """;

    @Test
    void whatTheKernelRefusesInTheMiddleIsSaidAndLeavesNothingOpen() throws Exception {
        start("22,23,99");
        lab.serve(23);
        assertEquals(0, ask(Lab.CLIENT, 99));
        var master = Pattern.compile("master-src=127.0.0.1 master-dst=127.0.0.1 sport=(\\d+) "
                + "dport=(\\d+)")
                .matcher(lab.mustOn("server", "conntrack", "-L", "expect"));
        assertTrue(master.find());
        lab.mustOn("server", "python3", "-c", NARROWER, Lab.CLIENT, Lab.SERVER, "23",
                master.group(1), master.group(2));
        assertEquals(EBUSY, ask(Lab.CLIENT, 23), "the kernel expects no wider one beside it");
        assertFalse(lab.connects(Lab.SERVER, 23));
        lab.mustOn("server", "conntrack", "-F", "expect");
        assertEquals(0, ask(Lab.CLIENT, 23));
        assertTrue(lab.getsIn(Lab.SERVER, 23));
        assertFalse(lab.connects(Lab.SERVER, 23));
    }

    @Test
    void eachOpeningHasItsOwnEnd() throws Exception {
        start("22");
        long first = System.nanoTime();
        assertEquals(0, ask(Lab.CLIENT, 22));
        TimeUnit.MILLISECONDS.sleep(2000); // of three seconds: what is tested is the time itself
        assertEquals(0, ask(Lab.CLIENT, 22));
        TimeUnit.NANOSECONDS.sleep(first + Lab.DELAY_MILLIS * 1_000_000 - System.nanoTime());
        assertEquals(1, expectations(), "the first is over, and the second has its turn");
        Lab.await("the second to be over", () -> expectations() == 0);
        assertTrue(System.nanoTime() - first < 9_000_000_000L,
                "2 + 3 seconds, rounded up, and an eighth, on a slow machine");
    }

    @Test
    void itIsOverAfterTheDelayAlsoWhenItsMakerWasKilled() throws Exception {
        start("1-65535");
        assertEquals(0, ask(Lab.CLIENT, 22));
        long opened = System.nanoTime();
        half.destroyForcibly().waitFor();
        assertEquals(1, expectations());
        Lab.await("the opening to be over", () -> expectations() == 0);
        assertTrue(System.nanoTime() - opened < 6_000_000_000L, "and not 300 seconds");
    }

    @Test
    void noMoreThanFiftyWaitForOnePortAndAThousandInAllAndEachRequestIsAnswered() throws Exception {
        start("1-65535");
        for (int i = 0; i < 51; i++) {
            assertEquals(i < 50 ? 0 : ENOSPC, ask(Lab.CLIENT, 22), "" + i);
        }
        int open = 50, answer;
        while ((answer = ask(Lab.CLIENT, 1000 + open)) == 0 && open < 10_000) {
            open++;
        }
        assertEquals(ENOSPC, answer);
        // it tries itself with two
        assertTrue(open >= 990 && expectations() <= 1000, open + " openings");
        for (int i = 0; i < 20_000; i++) {
            answer = ask("192.0.2." + (2 + i % 100), i % 3 == 0 ? 443 : 22);
            assertTrue(answer == 0 || answer == ENOSPC, "" + answer);
        }
        assertTrue(residentKilobytes() < 120_000, residentKilobytes() + " KB");
        Lab.await("room", () -> ask(Lab.CLIENT, 22) == 0);
    }

    @Test
    void eventsThatGotLostAreMadeUpFor() throws Exception {
        loadHostsTable();
        start("22");
        lab.serve(22);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT, 22));
        lab.must("kill", "-STOP", "" + half.pid());
        lab.mustOn("server", "sh", "-c", """
                for i in $(seq 100); do
                    echo "add table inet noise; add set inet noise s { type ipv4_addr; }"
                    echo "add element inet noise s { $(seq -f 10.0.$i.%g -s , 250) }"
                done | nft -f -
                nft delete table inet noise
                """); // more than the half's socket holds
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        loadHostsTable();
        lab.must("kill", "-CONT", "" + half.pid());
        Lab.await("the second opening", () -> expectations() == 1);
        Lab.await("the log rule", () -> rules().contains("inet knockknock"));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    @Test
    void whereTheKernelTellsNoEventsItSaysSoAndOpensOneAfterTheOther() throws Exception {
        lab.mustOn("server", "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_events=0");
        start("22");
        assertTrue(said().startsWith("knockknock: warning: with "
                + "net.netfilter.nf_conntrack_events = 0, "), said());
        lab.serve(22);
        for (int i = 0; i < 3; i++) {
            assertEquals(0, ask(Lab.CLIENT, 22));
            assertTrue(lab.getsIn(Lab.SERVER, 22), "connection " + i);
            assertFalse(lab.connects(Lab.SERVER, 22));
        }
        assertEquals(0, ask(Lab.CLIENT, 22));
        // so that the second one still has time when the first one's, 3 s and 1 more, is over
        TimeUnit.MILLISECONDS.sleep(2500);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertFalse(lab.connects(Lab.SERVER, 22), "the second one waits");
        assertTrue(lab.getsIn(Lab.SERVER, 22), "until the time of the first is over");
    }
}
