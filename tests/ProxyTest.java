import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * knockknock-proxy through a closed firewall: curl, OpenSSH, names, both IP versions, a server that
 * is down.
 */
class ProxyTest extends InProxy {
    @Test
    void aBadPortOrTimeoutIsBadUsageAndAPortThatIsTakenIsNamed() throws Exception {
        for (var port : List.of("0", "65536", "x")) {
            var bad = lab.run(lab.script("knockknock-proxy", port));
            assertEquals(2, bad.exit());
            assertTrue(bad.err().contains("'" + port
                    + "' is not a port: give a number from 1 to 65535"), bad.err());
        }
        var none = lab.run(lab.script("knockknock-proxy"));
        assertEquals(2, none.exit());
        assertTrue(none.err().contains("Missing required parameter: 'LISTENPORT'"), none.err());
        var never = lab.run(lab.script("knockknock-proxy", "--socks-timeout", "0", "" + PORT));
        assertEquals(2, never.exit());
        assertTrue(never.err().contains("give a number from 1 to 3600"), never.err());
        lab.profile("laptop", 666, "nosuchhost.invalid");
        startHere();
        Lab.await("the warning", () -> Files.readString(said)
                .contains("warning: the name of the profile nosuchhost.invalid is unknown"));
        var second = lab.run(Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)));
        assertEquals(1, second.exit());
        assertTrue(second.err().startsWith("knockknock: cannot listen on port " + PORT
                + ": Address already in use") && second.err().lines().count() == 1, second.err());
    }

    @Test
    void withoutAProfileItSaysSoAndConnectsWithoutKnocks() throws Exception {
        startHere();
        assertTrue(Files.readString(said).contains("warning: there is no profile in"));
        try (var server = server(); var client = through(server.getLocalPort())) {
            assertTrue(client.isConnected());
        }
    }

    private void startWebServer() throws Exception {
        Files.writeString(lab.work.resolve("page"), "hello");
        lab.start(lab.work.resolve("web"), Lab.on("server", "python3", "-c", """
                import http.server, os, socketserver
                os.chdir('%s')
                class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
                    request_queue_size = 100
                Server(('%s', 80), http.server.SimpleHTTPRequestHandler).serve_forever()
                """.formatted(lab.work, Lab.SERVER)));
        Lab.await("the web server", () -> lab.mustOn("server", "ss", "-Hltn", "sport = :80").lines()
                .count() == 1);
    }

    @Test
    void curlGetsThroughByNameAndByAddress() throws Exception {
        lab.profile("laptop", 666, "web.example");
        lab.must("sh", "-c", "echo '" + Lab.SERVER + " web.example' >> /etc/hosts");
        startWebServer();
        startOnClient();
        var proxyAddress = "127.0.0.1:" + PORT;
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", proxyAddress,
                "http://web.example/page"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5", proxyAddress,
                "http://web.example/page"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", "[::1]:"
                + PORT, "http://WEB.example/page"));
        assertEquals(3, lab.said("opened port 80"));
        assertFalse(lab.connects(Lab.SERVER, 80));
    }

    @Test
    void openSshGetsThrough() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        var key = Sshd.start(lab, Lab.on("server"), Lab.SERVER, 22);
        startOnClient();
        assertEquals("through\n", lab.mustOn("client", "ssh", "-i", key.toString(), "-o",
                "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                        "LogLevel=ERROR",
                "-o", "ProxyCommand=nc -X 5 -x 127.0.0.1:" + PORT + " %h %p", "root@" + Lab.SERVER,
                        "echo through"));
        assertEquals(1, lab.said("opened port 22"));
    }

    @Test
    void fortyConnectionsAtOnceAllGetThroughWhileTheShellKnocksToo() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        startWebServer();
        lab.serve(22);
        startOnClient();
        var curls = new ArrayList<Process>();
        for (int i = 0; i < 40; i++) {
            curls.add(lab.start(lab.work.resolve("curl-" + i),
                    Lab.on("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:" + PORT,
                    "http://" + Lab.SERVER + "/page")));
            if (i % 20 == 10) {
                lab.must(lab.knockCommand("-p", "" + (22 + i / 20), Lab.SERVER));
            }
        }
        for (int i = 0; i < 40; i++) {
            assertEquals(0, curls.get(i).waitFor());
            assertEquals("hello", Files.readString(lab.work.resolve("curl-" + i)));
        }
        assertEquals(0, lab.said("refused: not authentic"), lab.said());
        assertEquals(2, lab.said("opened port 22") + lab.said("opened port 23"));
    }

    @Test
    void anUnansweredKnockHoldsUpNobodyElseAndEndsWithTheRightReply() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        lab.profile("dead", 777, "192.0.2.77"); // nobody is there
        startWebServer();
        startOnClient();
        long start = System.nanoTime();
        var dead = lab.start(lab.work.resolve("dead"),
                Lab.on("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:" + PORT,
                "http://192.0.2.77/"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:"
                + PORT, "http://" + Lab.SERVER + "/page"));
        assertTrue(dead.isAlive(), "the other one must not have had to wait");
        assertEquals(97, dead.waitFor(), "curl: the SOCKS server refused");
        assertTrue(Files.readString(lab.work.resolve("dead")).matches("(?s).*\\(4\\).*"),
                Files.readString(lab.work.resolve("dead")));
        assertEquals("0000000002\n", Files.readString(lab.clientProfile("192.0.2.77")
                .resolve("counter")));
        assertTrue(System.nanoTime() - start < 15_000_000_000L, "two knocks of two seconds");
    }

    /**
     * A request for a host by a name, as which some programs send addresses too; the reply's code.
     */
    private int askFor(String name, int port) throws Exception {
        var request = lab.work.resolve("ask.py");
        if (!Files.exists(request)) {
            Files.writeString(request, """
                    import socket, sys
                    s = socket.create_connection(('127.0.0.1', %d), 30)
                    s.send(bytes([5, 1, 0])); s.recv(2)
                    name = sys.argv[1].encode()
                    s.send(bytes([5, 1, 0, 3, len(name)]) + name + int(sys.argv[2]).to_bytes(2, \
                    'big'))
                    print(s.recv(100)[1])
                    """.formatted(PORT));
        }
        return Integer.parseInt(lab.mustOn("client", "python3", request.toString(), name, "" + port)
                .strip());
    }

    @Test
    void aHostIsKnownByEachWayToWriteItsNameOrAddress() throws Exception {
        lab.profile("laptop", 666, "web.example");
        lab.must("sh", "-c", "echo '" + Lab.SERVER + " web.example\n" + Lab.SERVER6
                + " web.example' >> /etc/hosts");
        lab.serve(80);
        startOnClient();
        int opened = 0;
        for (var name : List.of("web.example", "WEB.Example.", Lab.SERVER, "::ffff:192.0.2.1",
                "[::ffff:192.0.2.1]", Lab.SERVER6,
                "[2001:db8::1]", "2001:DB8:0:0::1")) {
            assertEquals(0, askFor(name, 80), name);
            assertEquals(++opened, lab.said("opened port 80"), name + lab.said());
        }
    }

    @Test
    void aProfileThatIsAddedOrReplacedWhileTheProxyRunsIsUsed() throws Exception {
        lab.profile("laptop", 666, "laptop");
        lab.serve(80);
        startOnClient();
        lab.must("mv", lab.clientProfile("laptop").toString(),
                lab.clientProfile(Lab.SERVER).toString());
        assertEquals(0, askFor(Lab.SERVER, 80));
        lab.stopDaemon();
        lab.must("rm", "-r", lab.clientProfile(Lab.SERVER).toString(),
                lab.dir.resolve("profiles/laptop").toString());
        lab.profile("laptop", 667, Lab.SERVER);
        lab.startDaemon("--log", "/dev/kmsg");
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertEquals(1, lab.said("opened port 80"), lab.said());
    }

    /** The server has both IP versions, and the client prefers the sixth, as systems do. */
    private void serveBothAs(String host) throws Exception {
        lab.profile("laptop", 666, host);
        lab.must("sh", "-c", "printf '" + Lab.SERVER6 + " HOST\n" + Lab.SERVER
                + " HOST\n' | sed s/HOST/" + host + "/ >> /etc/hosts");
    }

    @ParameterizedTest
    @ValueSource(strings = {"swallowed", "no service"})
    void whereOneIpVersionDoesNotGetThroughTheOtherDoes(String fault) throws Exception {
        serveBothAs("both.example");
        lab.must("sh", "-c", "echo 'label 2001:db8::/32 1\nprecedence ::/0 40\nprecedence "
                + "::ffff:0:0/96 10' > /etc/gai.conf");
        if (fault.equals("swallowed")) {
            lab.serve(80);
            lab.mustOn("server", "ip6tables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "-j",
                    "DROP");
        } else {
            lab.start(lab.work.resolve("service"), Lab.on("server", "nc", "-lk", Lab.SERVER, "80"));
        }
        startOnClient();
        assertEquals(0, askFor("both.example", 80));
        assertEquals(1, lab.said("opened port 80 for " + Lab.CLIENT + ","), lab.said());
        var counter = Files.readString(lab.clientProfile("both.example").resolve("counter"));
        assertEquals(0, askFor("both.example", 80));
        assertEquals(Long.parseLong(counter.strip()) + 1, Long.parseLong(Files.readString(
                lab.clientProfile("both.example").resolve("counter")).strip()),
                        "the version that helped comes first now");
    }

    @ParameterizedTest
    @CsvSource({"4, 192.0.2.2", "6, 2001:db8:0:0:0:0:0:2"})
    void aProfileMayNameItsIpVersionForTheProxyAndTheCommand(int version,
            String from) throws Exception {
        serveBothAs("both.example");
        lab.addSetting(lab.clientProfile("both.example"), "ip_version = " + version);
        lab.serve(80);
        startOnClient();
        assertEquals(0, askFor("both.example", 80));
        lab.knock(81, "both.example");
        assertEquals(2, lab.said("for " + from + ","), lab.said());
    }

    @Test
    void ofAHostWithoutAProfileTheFirstAddressThatAnswersIsTaken() throws Exception {
        lab.must("sh", "-c", "printf '2001:db8::dead slow.example\n192.0.2.99 slow.example\n"
                + Lab.SERVER + " slow.example\n' >> /etc/hosts");
        lab.mustOn("server", "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "80", "-j",
                "ACCEPT");
        lab.serve(80);
        startWithoutServer();
        long start = System.nanoTime();
        assertEquals(0, askFor("slow.example", 80));
        assertTrue(System.nanoTime() - start < 8_000_000_000L,
                "not the ten seconds that a dead address takes");
    }

    @Test
    void aNameServerThatDoesNotAnswerHoldsUpNoConnectionToAnAddress() throws Exception {
        for (int i = 1; i <= 3; i++) {
            lab.profile("dead" + i, 700 + i, "dead" + i + ".example");
        }
        lab.profile("laptop", 666, Lab.SERVER);
        lab.serve(80);
        lab.startDaemon("--log", "/dev/kmsg");
        // A name server that takes every question and answers none, for the client alone.
        lab.start(lab.work.resolve("dns"), Lab.on("client", "nc", "-luk", "127.0.0.1", "53"));
        var command = new ArrayList<>(Lab.on("client", "unshare", "--mount", "sh", "-c",
                "echo nameserver 127.0.0.1 > $0/resolv && mount --bind $0/resolv "
                        + "/etc/resolv.conf && exec \"$@\"",
                lab.work.toString()));
        command.addAll(Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)));
        startProxy(command.toArray(String[]::new));
        long start = System.nanoTime();
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertTrue(System.nanoTime() - start < 15_000_000_000L,
                "not the thirty seconds that three dead names take");
        assertEquals(2, lab.said("opened port 80"), lab.said());
    }

    @Test
    void aPortThatTheProfileDoesNotOpenCostsNoCounter() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        lab.addSetting(lab.clientProfile(Lab.SERVER), "open_ports = 22,80");
        startWithoutServer();
        for (int port = 8000; port < 8051; port++) {
            assertEquals(1, askFor(Lab.SERVER, port));
        }
        var command = lab.run(List.of(lab.knockCommand("-p", "8000", Lab.SERVER)));
        assertEquals(new Lab.Result(1, "",
                "knockknock: the profile 192.0.2.1 does not open port 8000, only 22,80:"
                + " see open_ports in its config\n"), command);
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(Lab.SERVER)
                .resolve("counter")));
    }

    @Test
    void fourProgramsThatPollForTwentySecondsWhileTheServerIsDownCostAtMostSixtyCounters(
            ) throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        startWithoutServer();
        var polling = new ArrayList<Process>();
        for (int port : new int[] {25, 80, 110, 143}) {
            polling.add(lab.start(lab.work.resolve("poll"),
                    Lab.on("client", "timeout", "20", "sh", "-c",
                    "while :; do curl -s --socks5-hostname 127.0.0.1:" + PORT + " http://"
                            + Lab.SERVER + ":" + port + "/; sleep 0.2; done")));
        }
        for (var process : polling) {
            process.waitFor();
        }
        long used = Long.parseLong(Files.readString(lab.clientProfile(Lab.SERVER)
                .resolve("counter")).strip());
        assertTrue(used >= 10 && used <= 60, used + " counters");
        assertEquals(1, Files.readString(said).lines().filter(line -> line.contains("do not help"))
                .count());

        lab.serve(80); // when the server is back, so is the proxy, within a pause
        lab.startDaemon("--log", "/dev/kmsg");
        Lab.await("a knock that helps", () -> askFor(Lab.SERVER, 80) == 0);
        assertEquals(0, askFor(Lab.SERVER, 80), "and the next one needs no pause");
    }
}
