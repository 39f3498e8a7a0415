import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

/**
 * What knocks and processes leave behind: lines of the kernel's log, captured packets, numbers in
 * /proc.
 */
final class Traces {
    private Traces() {}

    /** What the kernel writes of a cover from the client to the server, as rsyslog has it. */
    static String line(KnockCodec.Fields f, int knockPort) {
        return line(f, knockPort, "SRC=" + Lab.CLIENT + " DST=" + Lab.SERVER
                + " LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=" + f.id() + " DF");
    }

    /** The same over IPv6. */
    static String line6(KnockCodec.Fields f, int knockPort) {
        return line(f, knockPort, "SRC=" + Lab.CLIENT6 + " DST=" + Lab.SERVER6
                + " LEN=80 TC=0 HOPLIMIT=64 FLOWLBL=" + f.id());
    }

    private static String line(KnockCodec.Fields f, int knockPort, String ip) {
        var options = "020405B40402080A%08X000000000103030A".formatted(f.tsval().getAsLong());
        return "2026-11-22T17:23:28.087964+00:00 vm kernel: [ 1924.556286] knockknock: IN=kk0 OUT= "
                + "MAC=92:05:ad:38:95:a9:e6:80:61:37:b5:0c:08:00 " + ip + " PROTO=TCP SPT=40000"
                + " DPT=" + knockPort + " SEQ=" + f.seq() + " ACK=0 WINDOW=64240 RES=0x00 SYN"
                + " URGP=0 OPT (" + options + ") \n";
    }

    /**
     * A number of kilobytes in a file of a process below /proc: "VmRSS" of "status", "Pss" of
     * "smaps_rollup".
     */
    static long kilobytes(long pid, String file, String key) throws IOException {
        var found = Pattern.compile("(?m)^" + key + ":\\s+(\\d+) kB")
                .matcher(Files.readString(Path.of("/proc/" + pid, file)));
        return found.find() ? Long.parseLong(found.group(1)) : 0;
    }

    /** A tcpdump that has begun to listen, and what it prints. */
    record Capture(Process process, Path out) {
        String text() throws IOException {
            return Files.readString(out);
        }

        void end() throws InterruptedException {
            process.destroy();
            process.waitFor();
        }

        /** Waits until it has what it was to wait for. */
        void await() throws Exception {
            if (process.waitFor() != 0) {
                throw new AssertionError(text());
            }
        }
    }
}
