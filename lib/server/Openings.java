import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * As many connections as were asked for, although the kernel can expect only one at a time of each
 * flow: the others wait for their turn. Each is over {@code delay} nanoseconds after it was asked
 * for.
 */
final class Openings {
    private static final int MOST = 1000; // within delay: each takes room in the kernel
    private static final int MOST_WAITING = 49; // of one flow, behind the one in the kernel
    private static final int ENOSPC = 28;
    private static final long SECOND = 1_000_000_000; // nanoseconds

    private final Netfilter kernel;
    private final long delay;
    private final Deque<Long> ends = new ArrayDeque<>(); // of all, also of those that were used
    private final Map<Netfilter.Flow, Deque<Long>> waiting = new HashMap<>(); // when each ends

    Openings(Netfilter kernel, int delay) {
        this.kernel = kernel;
        this.delay = delay * SECOND;
    }

    /** Lets one more connection in, now or after those like it: 0, or an errno. */
    synchronized int open(Netfilter.Flow flow) {
        long now = System.nanoTime();
        ends.removeIf(end -> end - now <= 0);
        waiting.values().forEach(alike -> alike.removeIf(end -> end - now <= 0));
        waiting.values().removeIf(Deque::isEmpty);
        var alike = waiting.computeIfAbsent(flow, _ -> new ArrayDeque<>());
        if (ends.size() == MOST || alike.size() == MOST_WAITING) {
            return ENOSPC;
        }
        ends.add(now + delay);
        alike.add(now + delay);
        int error = next(flow);
        if (error != 0) {
            ends.removeLast();
            alike.removeLast();
        }
        return error;
    }

    /** Where the kernel expects a flow no more, as it came or is over: has it expect the next. */
    synchronized int next(Netfilter.Flow flow) {
        long now = System.nanoTime();
        var alike = waiting.getOrDefault(flow, new ArrayDeque<>());
        alike.removeIf(end -> end - now <= 0);
        if (alike.isEmpty() || kernel.about(Netfilter.EXP_GET, flow) == 0) {
            return 0;
        }
        long seconds = Math.ceilDiv(alike.element() - now, SECOND);
        int error = kernel.expect(flow, seconds);
        if (error == 0) {
            alike.remove();
        } else {
            System.err.println("knockknock: the kernel refused an opening: errno " + error);
        }
        // The event of its end comes late from Linux 7.1.5 on, can get lost, or be switched off.
        CompletableFuture.delayedExecutor(error == 0 ? seconds + 1 : 1, TimeUnit.SECONDS)
                .execute(() -> next(flow));
        return error;
    }

    /** Where events may have been lost. */
    synchronized void lookAtAll() {
        waiting.keySet().forEach(this::next);
    }
}
