import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketTimeoutException;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * Connects: to the first of several addresses that answers, or to a port that is just being opened.
 */
final class Dialer {
    private static final int FIRST_PAUSE_MILLIS = 10;

    private Dialer() {}

    /** Tries one address after the other, and fails as the last one does. */
    static SocketChannel first(List<InetAddress> addresses, int port, int timeoutMillis)
            throws IOException {
        IOException failure = null;
        for (var address : addresses) {
            var channel = SocketChannel.open();
            try {
                channel.socket().connect(new InetSocketAddress(address, port), timeoutMillis);
                return channel;
            } catch (IOException e) {
                channel.close();
                failure = e;
            }
        }
        throw failure;
    }

    /**
     * Tries again and again for {@code millis}, with pauses that double, until one try gets
     * through. Those before it go on meanwhile: any may be the one that the firewall lets in, and
     * the kernel repeats a lost SYN only after a second.
     */
    static SocketChannel persist(InetSocketAddress target, long millis)
            throws IOException, InterruptedException {
        var tries = new ArrayList<SocketChannel>();
        var connected = new LinkedBlockingQueue<SocketChannel>();
        var failure = new AtomicReference<IOException>(new SocketTimeoutException("no answer"));
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
        try {
            for (long pause = FIRST_PAUSE_MILLIS; System.nanoTime() < end; pause *= 2) {
                var channel = SocketChannel.open();
                tries.add(channel);
                Thread.startVirtualThread(() -> {
                    try {
                        channel.connect(target);
                        connected.add(channel);
                    } catch (IOException e) {
                        failure.set(e);
                    }
                });
                long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
                var through = connected.poll(Math.min(pause, left), TimeUnit.MILLISECONDS);
                if (through != null) {
                    tries.remove(through);
                    return through;
                }
            }
            throw failure.get();
        } finally {
            for (var channel : tries) {
                channel.close();
            }
        }
    }
}
