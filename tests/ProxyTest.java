import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** knockknock-proxy: as SOCKS5 on loopback against misuse and load, and with curl and OpenSSH through a closed firewall. */
class ProxyTest extends InLab {
    private static final int PORT = 11080;
    private Process proxy;
    private Path said;

    @BeforeEach
    void startLab() throws Exception {
        said = lab.work.resolve("proxy.out");
    }

    private void startProxy(String... command) throws Exception {
        proxy = lab.start(said, List.of(command));
        Lab.await("the proxy", () -> Files.readString(said).contains("ready:"));
    }

    private void startHere() throws Exception {
        startProxy(Lab.withNetRaw(lab.script("knockknock-proxy", "--socks-timeout", "2", "" + PORT)).toArray(String[]::new));
    }

    private void startOnClient() throws Exception {
        lab.startDaemon("--log", "/dev/kmsg");
        startWithoutServer();
    }

    private void startWithoutServer() throws Exception {
        startProxy(Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT))).toArray(String[]::new));
    }

    private static Socket open() throws IOException {
        var socket = new Socket("127.0.0.1", PORT);
        socket.setSoTimeout(20_000);
        return socket;
    }

    private static byte[] request(int type, byte[] address, int port) {
        return ByteBuffer.allocate(4 + address.length + 2).put(new byte[] {5, 1, 0, (byte) type}).put(address)
                .putShort((short) port).array();
    }

    /** Sends a greeting and a request; returns the whole reply. */
    private static byte[] ask(Socket socket, byte[] request) throws IOException {
        socket.getOutputStream().write(new byte[] {5, 1, 0});
        assertArrayEquals(new byte[] {5, 0}, socket.getInputStream().readNBytes(2));
        socket.getOutputStream().write(request);
        var in = new DataInputStream(socket.getInputStream());
        var head = in.readNBytes(4);
        assertEquals(4, head.length, "no reply");
        var rest = in.readNBytes((head[3] == 1 ? 4 : 16) + 2);
        return ByteBuffer.allocate(head.length + rest.length).put(head).put(rest).array();
    }

    private static Socket through(int port) throws IOException {
        var socket = open();
        assertEquals(0, ask(socket, request(1, new byte[] {127, 0, 0, 1}, port))[1]);
        return socket;
    }

    private static ServerSocket server() throws IOException {
        return new ServerSocket(0, 1000, InetAddress.ofLiteral("127.0.0.1"));
    }

    @Test
    void theReplyNamesTheConnectionsOwnAddress() throws Exception {
        startHere();
        try (var server = server(); var client = open()) {
            var reply = ask(client, request(1, new byte[] {127, 0, 0, 1}, server.getLocalPort()));
            try (var accepted = server.accept()) {
                assertEquals("05000001" + "7f000001" + "%04x".formatted(accepted.getPort()), HexFormat.of().formatHex(reply));
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "5, 1, 7f000001, 9",           // connection refused
        "5, 4, 00000000000000000000000000000001, 9",
        "4, 3, 0f6e6f73756368686f73742e696e76, 80", // host unknown: nosuchhost.inv
        "4, 3, 04611b5b30, 80",        // not a host name at all
        "5, 1, 7f000001, 0",
        "8, 2, 00, 80"})               // address type not supported
    void eachFailureHasItsReplyCode(int code, int type, String address, int port) throws Exception {
        startHere();
        try (var client = open()) {
            assertEquals(code, ask(client, request(type, HexFormat.of().parseHex(address), port))[1]);
            assertEquals(-1, client.getInputStream().read());
        }
    }

    @Test
    void aNetworkWithoutARouteHasItsReplyCode() throws Exception {
        startProxy(Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT))).toArray(String[]::new));
        var curl = lab.run(Lab.on("client", "curl", "-sS", "--socks5", "127.0.0.1:" + PORT, "http://198.51.100.1/"));
        assertEquals(97, curl.exit());
        assertTrue(curl.err().contains("(3)"), curl.err());
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 3, 0})
    void onlyConnectIsSupported(int command) throws Exception {
        startHere();
        try (var client = open()) {
            var request = request(1, new byte[] {127, 0, 0, 1}, 9);
            request[1] = (byte) command;
            assertEquals(7, ask(client, request)[1]);
        }
    }

    @Test
    void aClientThatInsistsOnAPasswordIsToldSo() throws Exception {
        startHere();
        try (var client = open()) {
            client.getOutputStream().write(new byte[] {5, 2, 1, 2});
            assertArrayEquals(new byte[] {5, (byte) 0xFF}, client.getInputStream().readAllBytes());
        }
    }

    @Test
    void slowSilentAndGarbledGreetingsAreDroppedAndDisturbNobody() throws Exception {
        startHere();
        try (var server = server(); var silent = open(); var slow = open(); var garbled = open()) {
            slow.getOutputStream().write(5);
            garbled.getOutputStream().write("GET / HTTP/1.1\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
            try (var good = through(server.getLocalPort())) {
                assertEquals(-1, readEnd(garbled));
                assertEquals(-1, readEnd(silent));
                assertEquals(-1, readEnd(slow));
                good.getOutputStream().write(1);
                try (var accepted = server.accept()) {
                    assertEquals(1, accepted.getInputStream().read());
                }
            }
        }
    }

    /** -1 when the other side has closed, be it in order or with a reset. */
    private static int readEnd(Socket socket) throws IOException {
        try {
            return socket.getInputStream().read();
        } catch (SocketException e) {
            assertTrue(e.getMessage().contains("reset"), e.getMessage());
            return -1;
        }
    }

    @Test
    void eachSideMayFinishFirst() throws Exception {
        startHere();
        try (var server = server()) {
            for (boolean clientFirst : new boolean[] {true, false}) {
                try (var client = through(server.getLocalPort()); var accepted = server.accept()) {
                    var first = clientFirst ? client : accepted;
                    var second = clientFirst ? accepted : client;
                    first.getOutputStream().write("question".getBytes(StandardCharsets.US_ASCII));
                    first.shutdownOutput();
                    assertEquals("question", new String(second.getInputStream().readAllBytes(), StandardCharsets.US_ASCII));
                    second.getOutputStream().write("answer".getBytes(StandardCharsets.US_ASCII));
                    second.shutdownOutput();
                    assertEquals("answer", new String(first.getInputStream().readAllBytes(), StandardCharsets.US_ASCII));
                }
            }
        }
    }

    @Test
    void aConnectionThatBreaksOffDoesNotLookFinished() throws Exception {
        startHere();
        try (var server = server(); var client = through(server.getLocalPort())) {
            var accepted = server.accept();
            accepted.getOutputStream().write(new byte[1000]);
            assertEquals(1000, client.getInputStream().readNBytes(1000).length);
            accepted.setSoLinger(true, 0);
            accepted.close();
            assertThrows(SocketException.class, () -> client.getInputStream().read());
        }
    }

    private long residentKilobytes() throws IOException {
        return Traces.kilobytes(proxy.pid(), "status", "VmRSS");
    }

    @Test
    void aClientThatPausesGetsAllThatTheServerSentBeforeItClosed() throws Exception {
        startHere();
        var data = new byte[32 << 20];
        new Random(5).nextBytes(data);
        try (var server = server()) {
            for (int round = 0; round < 10; round++) {
                try (var client = through(server.getLocalPort())) {
                    var sent = CompletableFuture.runAsync(() -> {
                        try (var accepted = server.accept()) {
                            accepted.getOutputStream().write(data);
                        } catch (IOException e) {
                            throw new UncheckedIOException(e);
                        }
                    });
                    Thread.sleep(round == 0 ? 1000 : 50); // the pause is what is tested
                    assertArrayEquals(data, client.getInputStream().readAllBytes());
                    sent.get();
                }
            }
        }
    }

    @Test
    void aClientThatStopsReadingCostsBuffersAndNotTheDownload() throws Exception {
        startHere();
        long before = residentKilobytes();
        try (var server = server(); var client = through(server.getLocalPort()); var accepted = server.accept()) {
            var sender = Thread.startVirtualThread(() -> {
                try {
                    var chunk = new byte[1 << 20];
                    for (int i = 0; i < 1024; i++) {
                        accepted.getOutputStream().write(chunk);
                    }
                } catch (IOException e) {
                    // the lab ends while this waits: that is the point
                }
            });
            client.getInputStream().readNBytes(1 << 20);
            Thread.sleep(2000); // time enough for a proxy that hoards to hoard
            assertTrue(sender.isAlive(), "the sender must be held back");
            assertTrue(residentKilobytes() - before < 100_000, before + " -> " + residentKilobytes());
        }
    }

    @Test
    void aThousandIdleConnectionsAndTenThousandInTurnLeaveNothingBehind() throws Exception {
        startHere();
        try (var server = server()) {
            try (var _ = through(server.getLocalPort()); var _ = server.accept()) { // the JDK polls from its first wait on
                Lab.await("the JDK's own descriptors", () -> lab.must("sh", "-c", "readlink /proc/" + proxy.pid() + "/fd/*").contains("eventpoll"));
            }
            long files = openFiles();
            long threads = threads();
            var idle = new ArrayList<Socket>();
            for (int i = 0; i < 1000; i++) {
                idle.add(through(server.getLocalPort()));
                idle.add(server.accept());
            }
            assertTrue(openFiles() > files + 1990, files + " -> " + openFiles()); // the first connection may still be closing
            assertTrue(threads() - threads < 50, "threads: " + threads() + ", before " + threads);
            for (var socket : idle) {
                socket.close();
            }
            for (int i = 0; i < 10_000; i++) {
                try (var client = through(server.getLocalPort()); var accepted = server.accept()) {
                    client.shutdownOutput();
                    assertEquals(-1, accepted.getInputStream().read());
                }
            }
            Lab.await(() -> "all descriptors to be closed: " + openFiles() + ", before " + files, () -> openFiles() <= files);
            assertTrue(threads() - threads < 50, "threads: " + threads() + ", before " + threads);
        }
    }

    private long openFiles() throws IOException {
        try (var files = Files.list(Path.of("/proc/" + proxy.pid() + "/fd"))) {
            return files.count();
        }
    }

    private long threads() throws IOException {
        try (var tasks = Files.list(Path.of("/proc/" + proxy.pid() + "/task"))) {
            return tasks.count();
        }
    }

    @Test
    void itListensOnLoopbackOnly() throws Exception {
        startHere();
        var listening = lab.must("ss", "-Hltn", "sport = :" + PORT).lines().map(line -> line.split("\\s+")[3]
                .replace("[::ffff:127.0.0.1]", "127.0.0.1")).collect(Collectors.toSet());
        assertEquals(Set.of("127.0.0.1:" + PORT, "[::1]:" + PORT), listening);
    }

    @Test
    void aBadPortOrTimeoutIsBadUsageAndAPortThatIsTakenIsNamed() throws Exception {
        for (var port : List.of("0", "65536", "x")) {
            var bad = lab.run(lab.script("knockknock-proxy", port));
            assertEquals(2, bad.exit());
            assertTrue(bad.err().contains("'" + port + "' is not a port: give a number from 1 to 65535"), bad.err());
        }
        var none = lab.run(lab.script("knockknock-proxy"));
        assertEquals(2, none.exit());
        assertTrue(none.err().contains("Missing required parameter: 'LISTENPORT'"), none.err());
        var never = lab.run(lab.script("knockknock-proxy", "--socks-timeout", "0", "" + PORT));
        assertEquals(2, never.exit());
        assertTrue(never.err().contains("give a number from 1 to 3600"), never.err());
        lab.profile("laptop", 666, "nosuchhost.invalid");
        startHere();
        Lab.await("the warning", () -> Files.readString(said).contains("warning: the name of the profile nosuchhost.invalid is unknown"));
        var second = lab.run(Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)));
        assertEquals(1, second.exit());
        assertTrue(second.err().startsWith("knockknock: cannot listen on port " + PORT + ": Address already in use") && second.err().lines().count() == 1, second.err());
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
        Lab.await("the web server", () -> lab.mustOn("server", "ss", "-Hltn", "sport = :80").lines().count() == 1);
    }

    @Test
    void curlGetsThroughByNameAndByAddress() throws Exception {
        lab.profile("laptop", 666, "web.example");
        lab.must("sh", "-c", "echo '" + Lab.SERVER + " web.example' >> /etc/hosts");
        startWebServer();
        startOnClient();
        var proxyAddress = "127.0.0.1:" + PORT;
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", proxyAddress, "http://web.example/page"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5", proxyAddress, "http://web.example/page"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", "[::1]:" + PORT, "http://WEB.example/page"));
        assertEquals(3, lab.said("opened port 80"));
        assertFalse(lab.connects(Lab.SERVER, 80));
    }

    @Test
    void openSshGetsThrough() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        var key = Sshd.start(lab, Lab.on("server"), Lab.SERVER, 22);
        startOnClient();
        assertEquals("through\n", lab.mustOn("client", "ssh", "-i", key.toString(), "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                "-o", "ProxyCommand=nc -X 5 -x 127.0.0.1:" + PORT + " %h %p", "root@" + Lab.SERVER, "echo through"));
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
            curls.add(lab.start(lab.work.resolve("curl-" + i), Lab.on("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:" + PORT,
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
        var dead = lab.start(lab.work.resolve("dead"), Lab.on("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:" + PORT, "http://192.0.2.77/"));
        assertEquals("hello", lab.mustOn("client", "curl", "-sS", "--socks5-hostname", "127.0.0.1:" + PORT, "http://" + Lab.SERVER + "/page"));
        assertTrue(dead.isAlive(), "the other one must not have had to wait");
        assertEquals(97, dead.waitFor(), "curl: the SOCKS server refused");
        assertTrue(Files.readString(lab.work.resolve("dead")).matches("(?s).*\\(4\\).*"), Files.readString(lab.work.resolve("dead")));
        assertEquals("0000000002\n", Files.readString(lab.clientProfile("192.0.2.77").resolve("counter")));
        assertTrue(System.nanoTime() - start < 10_000_000_000L);
    }

    /** A request for a host by a name, as which some programs send addresses too; the reply's code. */
    private int askFor(String name, int port) throws Exception {
        var request = lab.work.resolve("ask.py");
        if (!Files.exists(request)) {
            Files.writeString(request, """
                    import socket, sys
                    s = socket.create_connection(('127.0.0.1', %d), 30)
                    s.send(bytes([5, 1, 0])); s.recv(2)
                    name = sys.argv[1].encode()
                    s.send(bytes([5, 1, 0, 3, len(name)]) + name + int(sys.argv[2]).to_bytes(2, 'big'))
                    print(s.recv(100)[1])
                    """.formatted(PORT));
        }
        return Integer.parseInt(lab.mustOn("client", "python3", request.toString(), name, "" + port).strip());
    }

    @Test
    void aHostIsKnownByEachWayToWriteItsNameOrAddress() throws Exception {
        lab.profile("laptop", 666, "web.example");
        lab.must("sh", "-c", "echo '" + Lab.SERVER + " web.example\n" + Lab.SERVER6 + " web.example' >> /etc/hosts");
        lab.serve(80);
        startOnClient();
        int opened = 0;
        for (var name : List.of("web.example", "WEB.Example.", Lab.SERVER, "::ffff:192.0.2.1", "[::ffff:192.0.2.1]", Lab.SERVER6,
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
        lab.must("mv", lab.clientProfile("laptop").toString(), lab.clientProfile(Lab.SERVER).toString());
        assertEquals(0, askFor(Lab.SERVER, 80));
        lab.stopDaemon();
        lab.must("rm", "-r", lab.clientProfile(Lab.SERVER).toString(), lab.dir.resolve("profiles/laptop").toString());
        lab.profile("laptop", 667, Lab.SERVER);
        lab.startDaemon("--log", "/dev/kmsg");
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertEquals(1, lab.said("opened port 80"), lab.said());
    }

    @Test
    void whoeverSpeaksAnotherProtocolIsNamedOnceInAWhile() throws Exception {
        startHere();
        for (var first : List.of("GET / HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n", "\4\1\0\120\177\0\0\1\0")) {
            try (var client = open()) {
                client.getOutputStream().write(first.getBytes(StandardCharsets.ISO_8859_1));
                assertEquals(-1, readEnd(client));
            }
        }
        Lab.await("the complaint", () -> Files.readString(said).contains("a program speaks HTTP to this port, which is for SOCKS5"));
        assertEquals(1, Files.readString(said).lines().filter(line -> line.contains("a program speaks")).count());
    }

    /** The server has both IP versions, and the client prefers the sixth, as systems do. */
    private void serveBothAs(String host) throws Exception {
        lab.profile("laptop", 666, host);
        lab.must("sh", "-c", "printf '" + Lab.SERVER6 + " HOST\n" + Lab.SERVER + " HOST\n' | sed s/HOST/" + host + "/ >> /etc/hosts");
    }

    @ParameterizedTest
    @ValueSource(strings = {"swallowed", "no service"})
    void whereOneIpVersionDoesNotGetThroughTheOtherDoes(String fault) throws Exception {
        serveBothAs("both.example");
        lab.must("sh", "-c", "echo 'label 2001:db8::/32 1\nprecedence ::/0 40\nprecedence ::ffff:0:0/96 10' > /etc/gai.conf");
        if (fault.equals("swallowed")) {
            lab.serve(80);
            lab.mustOn("server", "ip6tables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "-j", "DROP");
        } else {
            lab.start(lab.work.resolve("service"), Lab.on("server", "nc", "-lk", Lab.SERVER, "80"));
        }
        startOnClient();
        assertEquals(0, askFor("both.example", 80));
        assertEquals(1, lab.said("opened port 80 for " + Lab.CLIENT + ","), lab.said());
        var counter = Files.readString(lab.clientProfile("both.example").resolve("counter"));
        assertEquals(0, askFor("both.example", 80));
        assertEquals(Long.parseLong(counter.strip()) + 1, Long.parseLong(Files.readString(
                lab.clientProfile("both.example").resolve("counter")).strip()), "the version that helped comes first now");
    }

    @ParameterizedTest
    @CsvSource({"4, 192.0.2.2", "6, 2001:db8:0:0:0:0:0:2"})
    void aProfileMayNameItsIpVersionForTheProxyAndTheCommand(int version, String from) throws Exception {
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
        lab.must("sh", "-c", "printf '2001:db8::dead slow.example\n192.0.2.99 slow.example\n" + Lab.SERVER + " slow.example\n' >> /etc/hosts");
        lab.mustOn("server", "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "80", "-j", "ACCEPT");
        lab.serve(80);
        startWithoutServer();
        long start = System.nanoTime();
        assertEquals(0, askFor("slow.example", 80));
        assertTrue(System.nanoTime() - start < 8_000_000_000L, "not the ten seconds that a dead address takes");
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
                "echo nameserver 127.0.0.1 > $0/resolv && mount --bind $0/resolv /etc/resolv.conf && exec \"$@\"",
                lab.work.toString()));
        command.addAll(Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)));
        startProxy(command.toArray(String[]::new));
        long start = System.nanoTime();
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertEquals(0, askFor(Lab.SERVER, 80));
        assertTrue(System.nanoTime() - start < 8_000_000_000L, "not the thirty seconds that three dead names take");
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
        assertEquals(new Lab.Result(1, "", "knockknock: the profile 192.0.2.1 does not open port 8000, only 22,80:"
                + " see open_ports in its config\n"), command);
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(Lab.SERVER).resolve("counter")));
    }

    @Test
    void fourProgramsThatPollForTwentySecondsWhileTheServerIsDownCostAtMostSixtyCounters() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        startWithoutServer();
        var polling = new ArrayList<Process>();
        for (int port : new int[] {25, 80, 110, 143}) {
            polling.add(lab.start(lab.work.resolve("poll"), Lab.on("client", "timeout", "20", "sh", "-c",
                    "while :; do curl -s --socks5-hostname 127.0.0.1:" + PORT + " http://" + Lab.SERVER + ":" + port + "/; sleep 0.2; done")));
        }
        for (var process : polling) {
            process.waitFor();
        }
        long used = Long.parseLong(Files.readString(lab.clientProfile(Lab.SERVER).resolve("counter")).strip());
        assertTrue(used >= 10 && used <= 60, used + " counters");
        assertEquals(1, Files.readString(said).lines().filter(line -> line.contains("do not help")).count());

        lab.serve(80); // when the server is back, so is the proxy, within a pause
        lab.startDaemon("--log", "/dev/kmsg");
        Lab.await("a knock that helps", () -> askFor(Lab.SERVER, 80) == 0);
        assertEquals(0, askFor(Lab.SERVER, 80), "and the next one needs no pause");
    }
}
