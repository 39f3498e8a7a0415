import java.io.IOException;
import java.nio.channels.FileLock;
import java.util.concurrent.locks.ReentrantLock;

/** A profile's counter while it is this thread's alone, of all threads of all processes. */
final class CounterLock implements AutoCloseable {
    // A record lock keeps other processes out, but not this one's other threads.
    private static final ReentrantLock THREADS = new ReentrantLock();

    private final Counter counter;
    private final FileLock file;

    private CounterLock(Counter counter, FileLock file) {
        this.counter = counter;
        this.file = file;
    }

    /** Waits until no other thread or process has the counter; closing gives it back. */
    static CounterLock of(Counter counter) throws IOException {
        THREADS.lock();
        try {
            return new CounterLock(counter, counter.lock());
        } catch (IOException | RuntimeException e) {
            THREADS.unlock();
            throw e;
        }
    }

    /** Uses up the next counter; returns when that is on the disk. */
    long take() throws IOException {
        long next = counter.read();
        if (next > Counter.LAST) {
            throw new Failure("the profile " + counter.path().getParent() + " has used all its"
                    + " counters: make a new one");
        }
        counter.store(next + 1);
        return next;
    }

    @Override
    public void close() throws IOException {
        try {
            file.release();
        } finally {
            THREADS.unlock();
        }
    }
}
