import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.Socket;
import java.net.SocketException;
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

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** knockknock-proxy as SOCKS5 on loopback: replies, misuse, ends of connections, many of them. */
class SocksTest extends InProxy {
    @Test
    void theReplyNamesTheConnectionsOwnAddress() throws Exception {
        startHere();
        try (var server = server(); var client = open()) {
            var reply = ask(client, request(1, new byte[] {127, 0, 0, 1}, server.getLocalPort()));
            try (var accepted = server.accept()) {
                assertEquals("05000001" + "7f000001" + "%04x".formatted(accepted.getPort()),
                        HexFormat.of().formatHex(reply));
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
            assertEquals(code, ask(client,
                    request(type, HexFormat.of().parseHex(address), port))[1]);
            assertEquals(-1, client.getInputStream().read());
        }
    }

    @Test
    void aNetworkWithoutARouteHasItsReplyCode() throws Exception {
        startProxy(Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)))
                .toArray(String[]::new));
        var curl = lab.run(Lab.on("client", "curl", "-sS", "--socks5", "127.0.0.1:" + PORT,
                "http://198.51.100.1/"));
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
            garbled.getOutputStream()
                    .write("GET / HTTP/1.1\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
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
                    assertEquals("question", new String(second.getInputStream().readAllBytes(),
                            StandardCharsets.US_ASCII));
                    second.getOutputStream().write("answer".getBytes(StandardCharsets.US_ASCII));
                    second.shutdownOutput();
                    assertEquals("answer", new String(first.getInputStream().readAllBytes(),
                            StandardCharsets.US_ASCII));
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
        try (var server = server(); var client = through(server.getLocalPort());
                var accepted = server.accept()) {
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
            assertTrue(residentKilobytes() - before < 100_000, before + " -> "
                    + residentKilobytes());
        }
    }

    @Test
    void aThousandIdleConnectionsAndTenThousandInTurnLeaveNothingBehind() throws Exception {
        startHere();
        try (var server = server()) {
            // the JDK polls from its first wait on
            try (var _ = through(server.getLocalPort()); var _ = server.accept()) {
                Lab.await("the JDK's own descriptors",
                        () -> lab.must("sh", "-c", "readlink /proc/" + proxy.pid() + "/fd/*")
                        .contains("eventpoll"));
            }
            long files = openFiles();
            long threads = threads();
            var idle = new ArrayList<Socket>();
            for (int i = 0; i < 1000; i++) {
                idle.add(through(server.getLocalPort()));
                idle.add(server.accept());
            }
            // the first connection may still be closing
            assertTrue(openFiles() > files + 1990, files + " -> " + openFiles());
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
            Lab.await(() -> "all descriptors to be closed: " + openFiles() + ", before " + files,
                    () -> openFiles() <= files);
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
        var listening = lab.must("ss", "-Hltn", "sport = :" + PORT).lines()
                .map(line -> line.split("\\s+")[3]
                .replace("[::ffff:127.0.0.1]", "127.0.0.1")).collect(Collectors.toSet());
        assertEquals(Set.of("127.0.0.1:" + PORT, "[::1]:" + PORT), listening);
    }

    @Test
    void whoeverSpeaksAnotherProtocolIsNamedOnceInAWhile() throws Exception {
        startHere();
        for (var first : List.of("GET / HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n",
                "\4\1\0\120\177\0\0\1\0")) {
            try (var client = open()) {
                client.getOutputStream().write(first.getBytes(StandardCharsets.ISO_8859_1));
                assertEquals(-1, readEnd(client));
            }
        }
        Lab.await("the complaint", () -> Files.readString(said)
                .contains("a program speaks HTTP to this port, which is for SOCKS5"));
        assertEquals(1, Files.readString(said).lines()
                .filter(line -> line.contains("a program speaks")).count());
    }
}
