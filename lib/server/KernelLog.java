import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;

/** Follows the kernel's log from now on: /dev/kmsg, or a file of a log daemon's; never polls. */
final class KernelLog {
    static final Path KMSG = Path.of("/dev/kmsg");
    private static final int KMSG_DEVICE = 1 << 8 | 11; // Documentation/admin-guide/devices.txt
    private static final int S_IFMT = 0170000, S_IFCHR = 0020000, EINTR = 4, EPIPE = 32;
    private static final int O_RDONLY = 0, SEEK_END = 2;
    private static final int LONGEST_LINE = 8192; // the kernel's own limit for a record of its log

    /** Takes one line: text[from..to). */
    interface Lines {
        void take(byte[] text, int from, int to) throws IOException;
    }

    private final boolean isKmsg;
    private final InputStream in;

    private KernelLog(boolean isKmsg, InputStream in) {
        this.isKmsg = isKmsg;
        this.in = in;
    }

    /** Whether the file is the kernel's log: a container has often none, or something else. */
    private static boolean isKmsgThere() throws IOException {
        return Files.exists(KMSG)
                && ((int) Files.getAttribute(KMSG, "unix:mode") & S_IFMT) == S_IFCHR
                && (long) Files.getAttribute(KMSG, "unix:rdev") == KMSG_DEVICE;
    }

    /** Opens /dev/kmsg, for which it may take root, at its end. */
    static KernelLog openKmsg() throws IOException {
        if (!isKmsgThere()) {
            throw new Failure("there is no kernel's log in /dev/kmsg, which is to be the character"
                    + " device 1:11: a container needs --device=/dev/kmsg; or follow a file with"
                    + " the kernel's messages, with --log FILE");
        }
        try (var arena = Arena.ofConfined()) {
            long kmsg = Libc.call("open", arena.allocateFrom(KMSG.toString()).address(), O_RDONLY);
            if (kmsg < 0) {
                throw new Failure("cannot open /dev/kmsg (" + Libc.errno(-kmsg) + "): in a"
                        + " container this takes CAP_SYSLOG");
            }
            // The JDK moves to the end of a file by its size, and this one has none.
            Libc.must("lseek", kmsg, 0, SEEK_END);
            return new KernelLog(true, new Records(kmsg));
        }
    }

    /** Follows a file through tail, which sees rotation; returns when tail has it open. */
    static KernelLog follow(Path file) throws IOException {
        // in a session of its own: Ctrl-C is for the daemon
        var tail = new ProcessBuilder("/usr/bin/setsid", "/usr/bin/tail", "-v", "-n", "0", "-F",
                "--", file.toString());
        tail.environment().clear();
        var in = tail.redirectError(ProcessBuilder.Redirect.INHERIT).start().getInputStream();
        for (int c = 0; c != '\n' && c >= 0; c = in.read()) { } // the file's name, from -v
        return new KernelLog(false, in);
    }

    /** The records of /dev/kmsg, one in each read. */
    private static final class Records extends InputStream {
        private final long kmsg;
        private final MemorySegment record = Arena.global().allocate(LONGEST_LINE);
        private long quietUntil = System.nanoTime();

        private Records(long kmsg) {
            this.kmsg = kmsg;
        }

        @Override
        public int read(byte[] text, int at, int length) throws IOException {
            long count;
            while ((count = Libc.call("read", kmsg, record.address(), record.byteSize()))
                    == -EPIPE || count == -EINTR) {
                // EPIPE: records were overwritten before they were read
                if (count == -EPIPE && System.nanoTime() - quietUntil >= 0) {
                    System.out.println("the kernel log ran over: knocks may be lost; knock again");
                    quietUntil = System.nanoTime() + 10_000_000_000L;
                }
            }
            if (count < 0) {
                throw new IOException("cannot read /dev/kmsg (" + Libc.errno(-count) + ")");
            }
            MemorySegment.copy(record, JAVA_BYTE, 0, text, at, (int) count);
            return (int) count;
        }

        @Override
        public int read() {
            throw new UnsupportedOperationException(); // of one byte: no record is that short
        }
    }

    /**
     * Hands every line that is the kernel's to {@code lines}; returns when there can be no more.
     */
    void read(Lines lines) throws IOException {
        var text = new byte[8 * LONGEST_LINE];
        int length = 0; // of the unfinished line that text begins with
        boolean tooLong = false;
        for (int count; (count = in.read(text, length, text.length - length)) > 0; ) {
            int from = 0;
            for (int to = length; to < length + count; to++) {
                if (text[to] == '\n') {
                    int start = isKmsg ? kernelText(text, from, to) : from;
                    if (!tooLong && to - from <= LONGEST_LINE && start < to) {
                        lines.take(text, start, to);
                    }
                    tooLong = false;
                    from = to + 1;
                }
            }

            // Keep what is not a whole line yet.
            length += count - from;
            System.arraycopy(text, from, text, 0, length);
            if (length > LONGEST_LINE) {
                tooLong = true;
                length = 0;
            }
        }
    }

    /**
     * Where the text of a record begins, {@code to} if it is not the kernel's
     * (Documentation/ABI/testing/dev-kmsg): PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT with PRIORITY
     * = facility * 8 + level. What user space writes never gets facility 0. Further lines of a
     * record begin with a blank.
     */
    private static int kernelText(byte[] text, int from, int to) {
        if (to - from < 2 || text[from] < '0' || text[from] > '7' || text[from + 1] != ',') {
            return to;
        }
        int at = from;
        while (at < to && text[at] != ';') {
            at++;
        }
        return Math.min(at + 1, to);
    }
}
