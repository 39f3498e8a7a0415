import java.io.IOException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

/**
 * Carries bytes between two connections until both directions have ended. What one side has sent before it closes reaches
 * the other; a connection that breaks off is broken off on the other side as well, never ended cleanly.
 */
final class Relay {
    private static final int IDLE_BUFFER = 4 * 1024; // all that a quiet connection holds, in each direction
    private static final int BUSY_BUFFER = 256 * 1024;

    private final SocketChannel client;
    private final SocketChannel server;

    private Relay(SocketChannel client, SocketChannel server) {
        this.client = client;
        this.server = server;
    }

    /** Returns when all is carried; closes neither connection in good order. */
    static void run(SocketChannel client, SocketChannel server) throws IOException, InterruptedException {
        for (var channel : new SocketChannel[] {client, server}) {
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
        }
        var relay = new Relay(client, server);
        var upward = Thread.startVirtualThread(() -> relay.carry(client, server));
        relay.carry(server, client);
        upward.join();
    }

    /** One direction: ends when {@code from} does, which is passed on, or when {@code to} takes no more. */
    private void carry(SocketChannel from, SocketChannel to) {
        var buffer = ByteBuffer.allocateDirect(IDLE_BUFFER);
        for (;;) {
            try {
                if (from.read(buffer.clear()) < 0) {
                    break;
                }
            } catch (IOException e) {
                breakOff();
                return;
            }
            boolean filled = !buffer.hasRemaining();
            buffer.flip();
            try {
                while (buffer.hasRemaining()) {
                    to.write(buffer);
                }
            } catch (IOException e) {
                return; // the other direction may still have something for us; it will see the same break when it has not
            }
            if (filled && buffer.capacity() == IDLE_BUFFER) {
                buffer = ByteBuffer.allocateDirect(BUSY_BUFFER);
            }
        }
    }
}
