import java.util.concurrent.TimeUnit;

/**
 * Slows down for a profile whose knocks do not help, as each uses up a counter: after ten in a row
 * one knock in ten seconds, after sixteen one in a minute. One success ends it. Safe for threads.
 */
final class Backoff {
    private static final int PATIENCE = 10, LITTLE_HOPE = 16;
    private int fruitless;
    private long nextKnock;

    /** Whether a knock may be sent now. */
    synchronized boolean mayKnock() {
        return fruitless < PATIENCE || System.nanoTime() - nextKnock >= 0;
    }

    /** A knock did not help; whether that is the one after which it slows down. */
    synchronized boolean failed() {
        fruitless++;
        nextKnock = System.nanoTime() + TimeUnit.SECONDS.toNanos(fruitless < LITTLE_HOPE ? 10 : 60);
        return fruitless == PATIENCE;
    }

    synchronized void helped() {
        fruitless = 0;
    }
}
