import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.nio.channels.SocketChannel;
import java.nio.channels.UnsupportedAddressTypeException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * Connects: to the first of several addresses that answers, or to a port that is just being opened.
 * Tries go on beside each other; the first that gets through ends the others.
 */
final class Dialer {
    private static final int FIRST_PAUSE_MILLIS = 10; // between two tries at one address
    private static final int STAGGER_MILLIS = 250; // RFC 8305, section 5

    /** How one try ended: connected if there is no failure. */
    private record Outcome(SocketChannel channel, Optional<IOException> failure) {}

    private final List<SocketChannel> tries = new ArrayList<>();
    private final LinkedBlockingQueue<Outcome> outcomes = new LinkedBlockingQueue<>();
    private final long end;
    private Optional<SocketChannel> winner = Optional.empty();
    private IOException failure = new SocketTimeoutException("no answer");

    private Dialer(long millis) {
        end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
    }

    /**
     * Tries the addresses, by turns of both IP versions (RFC 8305, section 4): the next one after a
     * quarter of a second, or when the one before has failed. Fails as the last failure does.
     */
    static SocketChannel first(List<InetAddress> addresses, int port, int timeoutMillis)
            throws IOException, InterruptedException {
        var dialer = new Dialer(timeoutMillis);
        try {
            int left = 0; // tries that have not ended
            for (var address : byTurns(addresses)) {
                dialer.start(new InetSocketAddress(address, port), Optional.empty());
                left += dialer.await(STAGGER_MILLIS) ? 0 : 1;
                if (dialer.winner.isPresent()) {
                    return dialer.winner.get();
                }
            }
            for (; left > 0; left--) {
                dialer.await(timeoutMillis);
                if (dialer.winner.isPresent()) {
                    return dialer.winner.get();
                }
            }
            throw dialer.failure;
        } finally {
            dialer.close();
        }
    }

    private static List<InetAddress> byTurns(List<InetAddress> addresses) {
        var first = addresses.stream()
                .filter(a -> a.getClass() == addresses.getFirst().getClass()).toList();
        var second = addresses.stream().filter(a -> !first.contains(a)).toList();
        var turns = new ArrayList<InetAddress>();
        for (int i = 0; i < Math.max(first.size(), second.size()); i++) {
            turns.addAll(first.subList(Math.min(i, first.size()), Math.min(i + 1, first.size())));
            turns.addAll(second.subList(Math.min(i, second.size()),
                    Math.min(i + 1, second.size())));
        }
        return turns;
    }

    /**
     * Tries again and again for {@code millis}, with pauses that double, until one try from
     * {@code source} gets through. Those before it go on meanwhile: any may be the one that the
     * firewall lets in, and the kernel repeats a lost SYN only after a second.
     */
    static SocketChannel persist(InetAddress source, InetSocketAddress target, long millis)
            throws IOException, InterruptedException {
        var dialer = new Dialer(millis);
        try {
            for (long pause = FIRST_PAUSE_MILLIS; System.nanoTime() < dialer.end; pause *= 2) {
                dialer.start(target, Optional.of(source));
                long next = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(pause);
                boolean ended;
                do { // a try that failed does not shorten the pause
                    ended = dialer.await(TimeUnit.NANOSECONDS.toMillis(next - System.nanoTime()));
                    if (dialer.winner.isPresent()) {
                        return dialer.winner.get();
                    }
                } while (ended);
            }
            throw dialer.failure;
        } finally {
            dialer.close();
        }
    }

    private void start(InetSocketAddress target, Optional<InetAddress> source) throws IOException {
        var channel = SocketChannel.open();
        tries.add(channel);
        Thread.startVirtualThread(() -> {
            try {
                if (source.isPresent()) {
                    channel.bind(new InetSocketAddress(source.get(), 0));
                }
                channel.connect(target);
                outcomes.add(new Outcome(channel, Optional.empty()));
            } catch (IOException e) {
                outcomes.add(new Outcome(channel, Optional.of(e)));
            } catch (UnsupportedAddressTypeException e) { // this host has no such IP version
                outcomes.add(new Outcome(channel, Optional.of(new SocketException("no IPv6"))));
            }
        });
    }

    /** Waits for the next try to end, for {@code millis} at most; whether one has. */
    private boolean await(long millis) throws InterruptedException {
        long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
        var ended = outcomes.poll(Math.min(millis, left), TimeUnit.MILLISECONDS);
        if (ended == null) {
            return false;
        }
        if (ended.failure.isPresent()) {
            failure = ended.failure.get();
        } else {
            winner = Optional.of(ended.channel);
            tries.remove(ended.channel); // which are closed when this is over
        }
        return true;
    }

    private void close() throws IOException {
        for (var channel : tries) {
            channel.close();
        }
    }
}
