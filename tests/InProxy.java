import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.DataInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

import org.junit.jupiter.api.BeforeEach;

/** A proxy, and a client of it that speaks SOCKS5. */
abstract class InProxy extends InLab {
    static final int PORT = 11080;
    Process proxy;
    Path said;

    @BeforeEach
    void startLab() throws Exception {
        said = lab.work.resolve("proxy.out");
    }

    void startProxy(String... command) throws Exception {
        proxy = lab.start(said, List.of(command));
        Lab.await("the proxy", () -> Files.readString(said).contains("ready:"));
    }

    void startHere() throws Exception {
        startProxy(Lab.withNetRaw(lab.script("knockknock-proxy", "--socks-timeout", "2", "" + PORT))
                .toArray(String[]::new));
    }

    void startOnClient() throws Exception {
        lab.startDaemon("--log", "/dev/kmsg");
        startWithoutServer();
    }

    void startWithoutServer() throws Exception {
        startProxy(Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "" + PORT)))
                .toArray(String[]::new));
    }

    static Socket open() throws IOException {
        var socket = new Socket("127.0.0.1", PORT);
        socket.setSoTimeout(20_000);
        return socket;
    }

    static byte[] request(int type, byte[] address, int port) {
        return ByteBuffer.allocate(4 + address.length + 2).put(new byte[] {5, 1, 0, (byte) type})
                .put(address)
                .putShort((short) port).array();
    }

    /** Sends a greeting and a request; returns the whole reply. */
    static byte[] ask(Socket socket, byte[] request) throws IOException {
        socket.getOutputStream().write(new byte[] {5, 1, 0});
        assertArrayEquals(new byte[] {5, 0}, socket.getInputStream().readNBytes(2));
        socket.getOutputStream().write(request);
        var in = new DataInputStream(socket.getInputStream());
        var head = in.readNBytes(4);
        assertEquals(4, head.length, "no reply");
        var rest = in.readNBytes((head[3] == 1 ? 4 : 16) + 2);
        return ByteBuffer.allocate(head.length + rest.length).put(head).put(rest).array();
    }

    static Socket through(int port) throws IOException {
        var socket = open();
        assertEquals(0, ask(socket, request(1, new byte[] {127, 0, 0, 1}, port))[1]);
        return socket;
    }

    static ServerSocket server() throws IOException {
        return new ServerSocket(0, 1000, InetAddress.ofLiteral("127.0.0.1"));
    }
}
