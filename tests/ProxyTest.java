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
import java.util.regex.Pattern;
import java.util.stream.Collectors;

import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** knockknock-proxy: as SOCKS5 on loopback against misuse and load, and with curl and OpenSSH through a closed firewall. */
class ProxyTest {
    private static final int PORT = 11080;
    @AutoClose
    private Lab lab;
    private Process proxy;
    private Path said;

    @BeforeEach
    void startLab() throws Exception {
        lab = new Lab();
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
        var status = Files.readString(Path.of("/proc/" + proxy.pid() + "/status"));
        var matcher = Pattern.compile("VmRSS:\\s+(\\d+)").matcher(status);
        assertTrue(matcher.find());
        return Long.parseLong(matcher.group(1));
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
    void badInputIsNamed() throws Exception {
        for (var port : List.of("0", "65536", "x")) {
            assertEquals(2, lab.run(lab.script("knockknock-proxy", port)).exit());
        }
        assertEquals(2, lab.run(lab.script("knockknock-proxy")).exit());
        assertEquals(2, lab.run(lab.script("knockknock-proxy", "--socks-timeout", "0", "" + PORT)).exit());
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
        var key = lab.startSshd(Lab.on("server"), Lab.SERVER, 22);
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
}
