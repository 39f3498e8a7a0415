import java.io.IOException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

/**
 * Carries bytes between two connections until both directions have ended. All that one side sends
 * before it closes reaches the other. A connection that is found broken when it is read is broken
 * off on the other side too.
 */
final class Relay {
    private static final int QUIET_BUFFER = 4 * 1024; // until there is more to carry at a time
    private static final int BUSY_BUFFER = 256 * 1024;

    private Relay() {}

    /** Carries until there is nothing more to carry, then closes both. */
    static void run(SocketChannel client, SocketChannel server)
            throws IOException, InterruptedException {
        try (client; server) {
            for (var channel : new SocketChannel[] {client, server}) {
                channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
                channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
            }
            var upward = Thread.startVirtualThread(() -> carry(client, server));
            carry(server, client);
            upward.join();
        }
    }

    /**
     * One direction. Its end is passed on; so is a break, which ends the other direction as well.
     */
    private static void carry(SocketChannel from, SocketChannel to) {
        var buffer = ByteBuffer.allocateDirect(QUIET_BUFFER);
        try {
            while (from.read(buffer.clear()) >= 0) {
                boolean full = !buffer.hasRemaining();
                if (!send(to, buffer.flip())) {
                    return; // what `to` sent before it went away goes the other way
                }
                if (full && buffer.capacity() == QUIET_BUFFER) {
                    buffer = ByteBuffer.allocateDirect(BUSY_BUFFER);
                }
            }
            to.shutdownOutput();
        } catch (IOException e) {
            reset(from);
            reset(to);
        }
    }

    private static boolean send(SocketChannel to, ByteBuffer buffer) {
        try {
            while (buffer.hasRemaining()) {
                to.write(buffer);
            }
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    /** Closes with a TCP reset instead of an orderly end. */
    private static void reset(SocketChannel channel) {
        try (channel) {
            channel.setOption(StandardSocketOptions.SO_LINGER, 0);
        } catch (IOException e) {
            // it is closed already: there is nothing to reset
        }
    }
}
