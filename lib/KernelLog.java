import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** Follows the kernel's log from now on: /dev/kmsg, or a file of a log daemon's; never polls. */
final class KernelLog implements AutoCloseable {
    static final Path KMSG = Path.of("/dev/kmsg");
    private static final int KMSG_DEVICE = 1 << 8 | 11; // Documentation/admin-guide/devices.txt
    private static final int S_IFMT = 0170000, S_IFCHR = 0020000, SEEK_END = 2;
    private static final int LONGEST_LINE = 8192; // the kernel's own limit for a record of its log

    /** Takes one line: text[from..to). */
    interface Lines {
        void take(byte[] text, int from, int to) throws IOException;
    }

    private final Path log;
    private final long end;
    private InputStream in; // records of /dev/kmsg, or what tail prints
    private long quietUntil = System.nanoTime();

    private KernelLog(Path log, long end, InputStream in) {
        this.log = log;
        this.end = end;
        this.in = in;
    }

    /** A container has often none, or something else by that name. */
    static void checkKmsg() throws IOException {
        boolean device = Files.exists(KMSG)
                && ((int) Files.getAttribute(KMSG, "unix:mode") & S_IFMT) == S_IFCHR
                && (long) Files.getAttribute(KMSG, "unix:rdev") == KMSG_DEVICE;
        if (!device) {
            throw new Failure("there is no kernel's log in /dev/kmsg, which is to be the character"
                    + " device 1:11: a container needs --device=/dev/kmsg; or follow a file with"
                    + " the kernel's messages, with --log FILE");
        }
    }

    /** Opens /dev/kmsg, for which it may take root, or notes where the file ends. */
    static KernelLog open(Path log) throws IOException {
        if (!log.equals(KMSG)) {
            return new KernelLog(log, Files.size(log), InputStream.nullInputStream());
        }
        FileInputStream records;
        try {
            records = new FileInputStream(log.toFile());
        } catch (IOException e) {
            throw new Failure("cannot open " + e.getMessage() + ": in a container this takes"
                    + " CAP_SYSLOG");
        }
        // The JDK moves to the end of a file by its size, and this one has none.
        var descriptor = Counter.descriptor(log.toRealPath()).getFileName().toString();
        Sys.must("lseek", Integer.parseInt(descriptor), 0, SEEK_END);
        return new KernelLog(log, 0, records);
    }

    /**
     * Starts to follow a file, through tail, which sees rotation; returns when tail has it open.
     */
    void start() throws IOException {
        if (!log.equals(KMSG)) {
            // in a session of its own: Ctrl-C is for the daemon
            var builder = new ProcessBuilder("/usr/bin/setsid", "/usr/bin/tail", "-v",
                    "-c", "+" + (end + 1), "-F", "--", log.toString());
            builder.environment().clear();
            in = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start().getInputStream();
            for (int c = 0; c != '\n' && c >= 0; c = in.read()) { } // the file's name, from -v
        }
    }

    /**
     * Hands every line that is the kernel's to {@code lines}; returns when there can be no more.
     */
    void follow(Lines lines) throws IOException {
        var text = new byte[8 * LONGEST_LINE];
        int length = 0; // of the unfinished line that text begins with
        boolean tooLong = false;
        for (int count; (count = read(text, length)) > 0; ) {
            int from = 0;
            for (int to = length; to < length + count; to++) {
                if (text[to] == '\n') {
                    int start = log.equals(KMSG) ? kernelText(text, from, to) : from;
                    if (!tooLong && to - from <= LONGEST_LINE && start < to) {
                        lines.take(text, start, to);
                    }
                    tooLong = false;
                    from = to + 1;
                }
            }
            length += count - from;
            System.arraycopy(text, from, text, 0, length);
            if (length > LONGEST_LINE) {
                tooLong = true;
                length = 0;
            }
        }
    }

    /** Reads more. EPIPE from /dev/kmsg: records were overwritten before they were read. */
    private int read(byte[] text, int at) throws IOException {
        for (int failures = 1;; failures++) {
            try {
                return in.read(text, at, text.length - at);
            } catch (IOException e) {
                if (!log.equals(KMSG) || failures > 1000) {
                    throw e;
                } else if (failures == 1 && System.nanoTime() - quietUntil >= 0) {
                    System.out.println("the kernel log ran over: knocks may be lost; knock again");
                    quietUntil = System.nanoTime() + 10_000_000_000L;
                }
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

    @Override
    public void close() throws IOException {
        in.close();
    }
}
