import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Optional;

/**
 * The next counter of a profile, in a file of one decimal line. A new value is on the disk before anybody acts on it; a
 * value that cannot be read or stored is an error, never a reset. The file stays open, so that it can still be written
 * after privileges are gone. Safe for threads and processes.
 */
final class Counter {
    private final Path path;
    private final FileChannel channel;
    private Optional<Path> descriptor = Optional.empty(); // our entry in /proc, which knows when the file goes away

    private Counter(Path path, FileChannel channel) {
        this.path = path;
        this.channel = channel;
    }

    /** Opens the counter file for reading and writing. */
    static Counter open(Path file) throws IOException {
        try {
            var path = file.toRealPath();
            return new Counter(path, FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE));
        } catch (NoSuchFileException e) {
            throw new Cli.Failure(file + " is missing: copy the profile again");
        } catch (IOException e) {
            throw new Cli.Failure("cannot open " + file + " for writing: check its owner and mode");
        }
    }

    /** For a daemon: keeps every other process away from this counter until this one ends; false if one has it now. */
    boolean keep() throws IOException {
        return channel.tryLock() != null;
    }

    /** What a client does with a counter that is its own; false asks for another one. */
    interface Use {
        boolean of(long counter) throws IOException;
    }

    /**
     * For clients: uses the next counter up, then calls {@code use} with it, all under a lock that every process of this
     * profile takes, so that packets leave in the order of their counters.
     */
    void take(Use use) throws IOException {
        synchronized (Counter.class) { // a process has only one lock on a file, even if two profiles lead to it
            try (var _ = channel.lock()) {
                long next;
                do {
                    next = read();
                    if (next > KnockCodec.LAST_COUNTER) {
                        throw new Cli.Failure("the profile " + path.getParent() + " has used all its counters: make a new one");
                    }
                    store(next + 1);
                } while (!use.of(next));
            }
        }
    }

    /** The next counter, 0 to 2^32; 2^32 when all are used. */
    long read() throws IOException {
        var bytes = ByteBuffer.allocate(16);
        channel.read(bytes, 0);
        var text = new String(bytes.array(), 0, bytes.position(), StandardCharsets.US_ASCII);
        if (text.matches("[0-9]{1,10}\n?") && Long.parseLong(text.strip()) <= KnockCodec.LAST_COUNTER + 1) {
            return Long.parseLong(text.strip());
        }
        throw new Cli.Failure(path + " is damaged: it must hold one number; ask the other side for its counter,"
                + " and write a number that is not below it");
    }

    /** Writes {@code next} in place, in fixed width, and waits for the disk. */
    void store(long next) throws IOException {
        if (descriptor.isEmpty()) {
            descriptor = Sys.descriptor(path);
        }
        if (descriptor.isEmpty() || !Files.readSymbolicLink(descriptor.get()).equals(path)) {
            throw new IOException(path + " was removed or replaced while in use: put it back and start again");
        }
        var line = ByteBuffer.wrap("%010d\n".formatted(next).getBytes(StandardCharsets.US_ASCII));
        if (channel.write(line, 0) != line.capacity()) {
            throw new IOException(path + " could not be written whole: is the disk full?");
        }
        channel.force(false);
    }
}
