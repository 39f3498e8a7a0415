import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HexFormat;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Reads a line of the kernel's log (PROTOCOL.md 6.1): bytes in, the SYN that it tells of out. */
final class LogLine {
    /** A SYN to a knock port, as the kernel logged it. */
    record Syn(InetAddress source, InetAddress destination, int knockPort,
            KnockCodec.Fields fields) {}

    private LogLine() {}

    /*
     * What net/netfilter/nf_log_syslog.c writes for a SYN; PROTOCOL.md 6.1 has an example. All of
     * it must be there, each key once and in its place, and no flag but SYN. The quantifiers are
     * possessive (++, *+, ?+): what one has matched it never gives back, so that a line which does
     * not fit is refused in one pass. Only the first gives back: it ends at the first '='. A blank
     * that is not escaped means nothing here.
     */
    private static final Pattern LINE = Pattern.compile("""
            [^=]*IN=\\S*+ \\ OUT=\\S*+ (?:\\ (?!SRC=)[A-Z]++=\\S*+)*+  # before IN=: no '=' at all
            \\ SRC=(?<source>[0-9a-f.:]++) \\ DST=(?<destination>[0-9a-f.:]++) \\ LEN=\\d++
            (?: \\ TOS=\\w++ \\ PREC=\\w++ \\ TTL=\\d++ \\ ID=(?<id>\\d++)           # IPv4
                (?:\\ CE)?+ (?<df>\\ DF)?+ (?:\\ MF)?+
              | \\ TC=\\d++ \\ HOPLIMIT=\\d++ \\ FLOWLBL=(?<label>\\d++) )          # IPv6
            (?:\\ OPT\\ \\([0-9A-F\\ ]*+\\))*+                                    # IP options
            \\ PROTO=TCP \\ SPT=(?<spt>\\d++) \\ DPT=(?<dpt>\\d++)
            \\ SEQ=(?<seq>\\d++) \\ ACK=(?<ack>\\d++) \\ WINDOW=(?<window>\\d++)
            \\ RES=0x\\w\\w \\ SYN \\ URGP=(?<urgp>\\d++)
            (?:\\ OPT\\ \\((?<options>[0-9A-F]++)\\))?+ (?:\\ MARK=\\w++)?+ \\ ?+
            """, Pattern.COMMENTS);
    private static final byte[] DPT = " DPT=".getBytes(StandardCharsets.US_ASCII);

    /**
     * The SYN to one of {@code knockPorts} in text[from..to), if any; other lines make no garbage.
     */
    static Optional<Syn> parse(byte[] text, int from, int to, BitSet knockPorts) {
        // Refuse a line about another port at the first look.
        if (!knockPorts.get(firstPort(text, from, to))) {
            return Optional.empty();
        }
        // Refuse all that is not a whole line about a SYN.
        Matcher line = LINE.matcher(new String(text, from, to - from, StandardCharsets.ISO_8859_1));
        if (!line.matches()) {
            return Optional.empty();
        }
        try {
            // Take the numbers, each in its field's range.
            number(line, "spt", 0xFFFF);
            number(line, "urgp", 0xFFFF);
            long id = line.group("id") != null ? number(line, "id", 0xFFFF)
                    : number(line, "label", 0xFFFFF) & 0xFFFF;
            long ack = number(line, "ack", 0xFFFF_FFFFL);
            var tsval = tsval(line.group("options"));
            // A translator (RFC 7915) sets ID or label to 0, or makes up an ID and leaves DF out.
            boolean translated = id == 0 || line.group("id") != null && line.group("df") == null
                    && ack == 0 && tsval.isPresent(); // the original's classic has no DF either
            var fields = new KnockCodec.Fields((int) id, number(line, "seq", 0xFFFF_FFFFL), ack,
                    (int) number(line, "window", 0xFFFF), tsval, translated);
            var source = InetAddress.ofLiteral(line.group("source"));
            var destination = InetAddress.ofLiteral(line.group("destination"));
            int port = (int) number(line, "dpt", 0xFFFF);
            return knockPorts.get(port) ? Optional.of(new Syn(source, destination, port, fields))
                    : Optional.empty();
        } catch (IllegalArgumentException e) {
            return Optional.empty(); // an address or a number that no packet has
        }
    }

    /** The number behind the first DPT=, or 0, which is no knock port. */
    private static int firstPort(byte[] text, int from, int to) {
        for (int at = from; at <= to - DPT.length; at++) {
            if (text[at] == ' ' && Arrays.equals(text, at, at + DPT.length, DPT, 0, DPT.length)) {
                int port = 0;
                for (int i = at + DPT.length; i < to && port <= 0xFFFF; i++) {
                    if (text[i] < '0' || text[i] > '9') {
                        break;
                    }
                    port = port * 10 + text[i] - '0';
                }
                return port;
            }
        }
        return 0;
    }

    private static long number(Matcher line, String key, long max) {
        long value = Long.parseLong(line.group(key));
        if (value > max) {
            throw new IllegalArgumentException(key);
        }
        return value;
    }

    /**
     * The timestamp option's first half (RFC 7323), from TCP options in hexadecimal; empty if none.
     */
    private static OptionalLong tsval(String hex) {
        var options = ByteBuffer.wrap(hex == null ? new byte[0] : HexFormat.of().parseHex(hex));
        while (options.remaining() >= 2) {
            int kind = options.get();
            if (kind == 1) { // no operation: one byte
                continue;
            }
            int length = options.get() - 2; // of what follows
            if (kind == 8 && length == 8 && options.remaining() >= length) {
                return OptionalLong.of(Integer.toUnsignedLong(options.getInt()));
            }
            if (kind == 0 || length < 0 || length > options.remaining()) {
                break; // the end, or nonsense
            }
            options.position(options.position() + length);
        }
        return OptionalLong.empty();
    }
}
