import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The next counter of a profile, in a file of one decimal line. A new value is on the disk before
 * anybody acts on it; a value that cannot be read or stored is an error, never a reset. The file
 * stays open, so that it can be written when privileges are gone; locks are POSIX record locks
 * (fcntl, F_SETLKW), which keep other processes out.
 */
final class Counter {
    static final long LAST = 0xFFFF_FFFFL; // then the profile is used up

    /**
     * Our entries in /proc/self/fd by file, read once for all that are open by then. They tell of a
     * file in a directory that is root's, and out of the daemon's reach.
     */
    private static final Map<Path, Path> DESCRIPTORS = new ConcurrentHashMap<>();

    private final Path path;
    private final FileChannel channel;
    private Path descriptor; // our entry in /proc/self/fd, once it was needed

    private Counter(Path path, FileChannel channel) {
        this.path = path;
        this.channel = channel;
    }

    /** Opens the counter file for reading and writing. */
    static Counter open(Path file) throws IOException {
        try {
            var path = file.toRealPath();
            return new Counter(path,
                    FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE));
        } catch (NoSuchFileException e) {
            throw new Failure(file + " is missing: write the other side's number into it, plus 50"
                    + " on a client");
        } catch (IOException e) {
            throw new Failure("cannot open " + file + " for writing: check its owner and mode");
        }
    }

    /** Reads a counter in plain decimal, 0 to 2^32 - 1. */
    static long number(String text) {
        if (!text.matches("[0-9]{1,10}") || Long.parseLong(text) > LAST) {
            throw new Failure("'" + text + "' is not a counter: give a number from 0 to " + LAST);
        }
        return Long.parseLong(text);
    }

    Path path() {
        return path;
    }

    /** Locks the counter until this process ends; false if another one has it. */
    boolean tryLockForGood() throws IOException {
        return channel.tryLock() != null;
    }

    /** Whether another process has it locked. */
    boolean isLocked() throws IOException {
        try (var lock = channel.tryLock()) {
            return lock == null;
        }
    }

    /** Waits until no other process has the counter; the caller keeps other threads out. */
    FileLock lock() throws IOException {
        return channel.lock();
    }

    /** Skips the counters before {@code later}; the caller has the lock. */
    void moveTo(long later) throws IOException {
        long next = read();
        if (later < next) {
            throw new Failure(path + " is at " + next + " already: a counter only moves forward, as"
                    + " one that was used once must never be used again");
        }
        store(later);
    }

    /** The next counter, 0 to 2^32; 2^32 when all are used. */
    long read() throws IOException {
        var bytes = ByteBuffer.allocate(16);
        channel.read(bytes, 0);
        var text = new String(bytes.array(), 0, bytes.position(), StandardCharsets.US_ASCII);
        if (text.matches("[0-9]{1,10}\n?")) {
            long next = Long.parseLong(text.strip());
            if (next <= LAST + 1) {
                return next;
            }
        }
        throw new Failure(path + " is damaged: it must hold one number; write the other side's into"
                + " it, plus 50 on a client");
    }

    /** Writes {@code next} in place, in fixed width, and waits for the disk. */
    void store(long next) throws IOException {
        // Refuse to write to a file that has no name any more: the next start would not see it.
        if (descriptor == null) {
            descriptor = descriptor(path);
        }
        if (!Files.readSymbolicLink(descriptor).equals(path)) {
            throw new IOException(path + " was removed or replaced while in use: put it back and"
                    + " start again");
        }
        var digits = Long.toString(next);
        var text = "0".repeat(10 - digits.length()) + digits + "\n";
        var line = ByteBuffer.wrap(text.getBytes(StandardCharsets.US_ASCII));
        if (channel.write(line, 0) != line.capacity()) {
            throw new IOException(path + " could not be written whole: is the disk full?");
        }
        channel.force(false);
    }

    /** The entry in /proc/self/fd of a file that this process has open: it follows the file. */
    private static Path descriptor(Path file) throws IOException {
        var known = DESCRIPTORS.get(file);
        if (known == null || !Files.isSymbolicLink(known)
                || !Files.readSymbolicLink(known).equals(file)) {
            DESCRIPTORS.clear();
            try (var open = Files.newDirectoryStream(Path.of("/proc/self/fd"))) {
                for (var fd : open) {
                    try {
                        DESCRIPTORS.put(Files.readSymbolicLink(fd), fd);
                    } catch (NoSuchFileException e) {
                        continue; // another thread has just closed it
                    }
                }
            }
            known = DESCRIPTORS.get(file);
        }
        if (known == null) {
            throw new IOException(file + " was removed or replaced while in use: put it back and"
                    + " start again");
        }
        return known;
    }
}
