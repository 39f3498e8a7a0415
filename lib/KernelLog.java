import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** Follows the kernel's log from now on, in a file that a log daemon writes or in /dev/kmsg. Sleeps until there is more. */
final class KernelLog implements AutoCloseable {
    static final Path KMSG = Path.of("/dev/kmsg");
    private static final int LONGEST_LINE = 8192; // the kernel's own limit for a record of its log

    /** Takes one line: text[from..to). */
    interface Lines {
        void take(byte[] text, int from, int to) throws IOException;
    }

    private final Path log;
    private final long end;
    private InputStream in; // records of /dev/kmsg, or what tail prints

    private KernelLog(Path log, long end, InputStream in) {
        this.log = log;
        this.end = end;
        this.in = in;
    }

    /** Notes where the log ends now, and opens /dev/kmsg, for which it may take root. */
    static KernelLog open(Path log) throws IOException {
        if (!log.equals(KMSG)) {
            return new KernelLog(log, Files.size(log), InputStream.nullInputStream());
        }
        var records = new FileInputStream(log.toFile());
        Sys.seekToEnd(log);
        return new KernelLog(log, 0, records);
    }

    /** Starts to follow a file, through tail, which wakes by inotify and sees rotation; returns when it has the file open. */
    void start() throws IOException {
        if (!log.equals(KMSG)) {
            var builder = new ProcessBuilder("/usr/bin/tail", "-v", "-c", "+" + (end + 1), "-F", "--", log.toString());
            builder.environment().clear();
            in = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start().getInputStream();
            for (int c = 0; c != '\n' && c >= 0; c = in.read()) { } // the file's name, which -v prints when it is open
        }
    }

    /** Hands every line from where the log ended when it was opened to {@code lines}; returns when there can be no more. */
    void follow(Lines lines) throws IOException {
        if (log.equals(KMSG)) {
            followRecords(lines);
        } else {
            followFile(lines);
        }
    }

    private void followFile(Lines lines) throws IOException {
        var text = new byte[8 * LONGEST_LINE];
        int length = 0; // of the unfinished line that text begins with
        boolean tooLong = false;
        for (int count; (count = in.read(text, length, text.length - length)) > 0; ) {
            int from = 0;
            for (int to = length; to < length + count; to++) {
                if (text[to] == '\n') {
                    if (!tooLong && to - from <= LONGEST_LINE) {
                        lines.take(text, from, to);
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

    /** Record by record, as Documentation/ABI/testing/dev-kmsg has it. */
    private void followRecords(Lines lines) throws IOException {
        var text = new byte[LONGEST_LINE];
        int failures = 0; // in a row
        for (;;) {
            int length;
            try {
                length = in.read(text);
                failures = 0;
            } catch (IOException e) { // EPIPE: records were overwritten before this read, and may be again before the next
                if (++failures == 1) {
                    System.out.println("the kernel log ran over: knocks may be lost, and can be sent again");
                } else if (failures > 1000) {
                    throw e;
                }
                continue;
            }
            if (length <= 0) {
                return;
            }
            record(text, length, lines);
        }
    }

    /**
     * PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT\n, with PRIORITY = facility * 8 + level. Facility 0 is the kernel's: what
     * user space writes to /dev/kmsg gets another.
     */
    private static void record(byte[] text, int length, Lines lines) throws IOException {
        boolean kernel = text[0] >= '0' && text[0] <= '7' && text[1] == ',';
        int from = indexOf((byte) ';', text, 0, length) + 1;
        if (kernel) {
            lines.take(text, from, indexOf((byte) '\n', text, from, length));
        }
    }

    /** Where {@code wanted} stands in text[from..to), or {@code to}. */
    private static int indexOf(byte wanted, byte[] text, int from, int to) {
        int at = from;
        while (at < to && text[at] != wanted) {
            at++;
        }
        return at;
    }

    @Override
    public void close() throws IOException {
        in.close();
    }
}
