import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Random;
import java.util.TreeMap;

import org.junit.jupiter.api.Test;

/**
 * The parser against real lines of the kernel's LOG target, against lines that only look like them,
 * and against noise.
 */
class LogLineTest {
    private static final BitSet PORTS = new BitSet();
    private static final KnockWindow.Terms TERMS = CodecTest.terms(2, false);
    private final KnockCodec codec = new KnockCodec(new byte[16], new byte[16]);

    static {
        PORTS.set(666);
    }

    private static Optional<LogLine.Syn> parse(String line) {
        var bytes = ("#" + line + "#").getBytes(StandardCharsets.UTF_8);
        return LogLine.parse(bytes, 1, bytes.length - 1, PORTS);
    }

    private static LogLine.Syn syn(String source, int id, long seq, long ack, int window,
            long... tsval) {
        return new LogLine.Syn(InetAddress.ofLiteral(source),
                InetAddress.ofLiteral(source.contains(":") ? "fd99::1" : "10.99.0.1"), 666,
                        new KnockCodec.Fields(id, seq, ack, window,
                tsval.length == 0 ? OptionalLong.empty() : OptionalLong.of(tsval[0]), false));
    }

    /**
     * What must be read from each line of lines.tsv; every other line there is no SYN to a knock
     * port.
     */
    private static final Map<String, LogLine.Syn> KNOCKS = Map.ofEntries(
            Map.entry("tcp_syn_classic", syn("10.99.0.2", 4242, 123456789, 987654321, 4321)),
            Map.entry("tcp_syn_options", syn("10.99.0.2", 65535, 4294967295L, 0, 64240,
                    0xDEADBEEFL)),
            Map.entry("tcp_syn_limits", syn("10.99.0.2", 1, 0, 4294967295L, 0)),
            Map.entry("tcp_syn_ip_option", syn("10.99.0.2", 77, 5, 6, 7)),
            Map.entry("v6_tcp_syn_classic",
                    syn("fd99::2", 330717 & 0xFFFF, 123456789, 987654321, 4321)),
            Map.entry("v6_tcp_syn_options",
                    syn("fd99::2", 65535, 4294967295L, 0, 64240, 0xDEADBEEFL)),
            Map.entry("v6_tcp_syn_dest_option_header", syn("fd99::2", 5, 1, 2, 3)),
            Map.entry("kernel_connect_syn",
                    syn("10.99.0.2", 20473, 1739776615, 0, 64240, 0xD8B8C2E7L)),
            Map.entry("kernel_connect_syn_2",
                    syn("10.99.0.2", 26614, 4254927300L, 0, 64240, 0x313CE3EEL)),
            Map.entry("v6_kernel_connect_syn",
                    syn("fd99::2", 828383 & 0xFFFF, 4030059095L, 0, 64800, 0xFEB87CF7L)),
            Map.entry("v6_kernel_connect_syn_2",
                    syn("fd99::2", 372192 & 0xFFFF, 3633111134L, 0, 64800, 0x454E4DE5L)));

    private static Map<String, String> lines() throws IOException {
        var lines = new TreeMap<String, String>();
        for (var line : Files.readAllLines(Path.of("tests/lines.tsv"))) {
            if (!line.startsWith("#")) {
                lines.put(line.split("\t")[0], line.split("\t")[1]);
            }
        }
        return lines;
    }

    /**
     * What stands before a line by where it is read; a /dev/kmsg record's head is cut off before
     * the line is parsed.
     */
    private static List<String> prefixes() throws IOException {
        return Files.readAllLines(Path.of("tests/prefixes.txt")).stream()
                .filter(line -> !line.startsWith("#"))
                .map(line -> line.substring(0, line.indexOf("REJECT"))).toList();
    }

    @Test
    void realLinesAreReadBehindEveryPrefix() throws IOException {
        assertEquals(3, prefixes().size());
        assertTrue(lines().keySet().containsAll(KNOCKS.keySet()));
        for (var line : lines().entrySet()) {
            var expected = Optional.ofNullable(KNOCKS.get(line.getKey()));
            assertEquals(expected, parse(line.getValue()), line.getKey());
            assertEquals(expected, parse(line.getValue().strip()), line.getKey()
                    + " without the blank at its end");
            for (var prefix : prefixes()) {
                assertEquals(expected, parse(prefix + line.getValue()), line.getKey() + " behind "
                        + prefix);
            }
        }
    }

    @Test
    void everyNeededKeyIsNeededOnceAndInRange() throws IOException {
        var line = lines().get("tcp_syn_options");
        for (var key : List.of("SRC=10.99.0.2 ", "ID=65535 ", "PROTO=TCP ", "SPT=40001 ",
                "DPT=666 ", "SEQ=4294967295 ",
                "ACK=0 ", "WINDOW=64240 ", "SYN ", "URGP=0 ")) {
            assertTrue(line.contains(key));
            assertTrue(parse(line.replace(key, "")).isEmpty(), "without " + key);
            assertTrue(parse(line.replace(key, key + key)).isEmpty(), "twice " + key);
            // In front there may be a host's name or a prefix of that word, but no second key.
            assertEquals(key.contains("="), parse(key + line).isEmpty(), "also in front: " + key);
            assertTrue(parse(line + key).isEmpty(), "also at the end: " + key);
        }
        for (var change : Map.of("ID=65535", "ID=65536", "SPT=40001", "SPT=65536", "DPT=666",
                "DPT=66600666", "SEQ=4294967295",
                "SEQ=4294967296", "ACK=0", "ACK=99999999999999999999999", "WINDOW=64240",
                        "WINDOW=65536", "URGP=0", "URGP=-1",
                "SRC=10.99.0.2", "SRC=10.99.0.256", "SYN", "SYN FIN", "PROTO=TCP", "PROTO=UDP")
                        .entrySet()) {
            assertTrue(parse(line.replace(change.getKey(), change.getValue())).isEmpty(),
                    change.toString());
        }
        assertTrue(parse(line.replace("OPT (", "OPT (0")).isEmpty(), "half a byte of options");
        var v6 = lines().get("v6_tcp_syn_options");
        assertTrue(parse(v6.replace("FLOWLBL=65535", "FLOWLBL=1048576")).isEmpty());
        assertTrue(parse(v6.replace("FLOWLBL=65535", "FLOWLBL=65535 ID=5")).isEmpty());
    }

    @Test
    void aLineThatIsCutOffIsRefusedOrHasLostNothingButItsOptions() throws IOException {
        var line = lines().get("tcp_syn_options").strip();
        for (int end = 0; end < line.length(); end++) {
            var cut = parse(line.substring(0, end));
            assertTrue(cut.isEmpty() || cut.get().fields().tsval().isEmpty(),
                    line.substring(0, end));
        }
    }

    @Test
    void otherPortsAndQuotedPacketsAreNotKnocks() throws IOException {
        var line = lines().get("tcp_syn_classic");
        assertTrue(parse(line.replace("OUT= ", "OUT= DPT=666 ")
                .replace(" DPT=666 SEQ", " DPT=667 SEQ")).isEmpty(), "a second port");
        assertTrue(parse(line.replace("DPT=666", "DPT=667")).isEmpty());
        assertTrue(parse(line.replace("SRC=", "[SRC=") + "]").isEmpty());
        assertFalse(parse(line.replace("URGP=0 ", "URGP=0 MARK=0x1 ")).isEmpty(),
                "a marked packet is logged with its mark");
    }

    @Test
    void aMillionRandomAndMutatedLinesNeitherThrowNorOpen() throws IOException {
        var random = new Random(42);
        var lines = new ArrayList<>(lines().values());
        lines.removeIf(line -> line.isEmpty());
        int parsed = 0;
        for (int i = 0; i < 1_000_000; i++) {
            var bytes = lines.get(i % lines.size()).getBytes(StandardCharsets.US_ASCII);
            if (i % 10 == 0) {
                random.nextBytes(bytes);
            }
            for (int n = random.nextInt(4); n > 0; n--) {
                int at = random.nextInt(bytes.length);
                switch (random.nextInt(3)) {
                    case 0 -> bytes[at] = (byte) random.nextInt(256);
                    case 1 -> bytes[at] = (byte) "0123456789 =[]()SYN".charAt(random.nextInt(19));
                    default -> System.arraycopy(bytes, at, bytes, random.nextInt(at + 1),
                            bytes.length - at);
                }
            }
            var syn = LogLine.parse(bytes, 0, bytes.length - random.nextInt(3), PORTS);
            if (syn.isPresent()) {
                parsed++;
                assertTrue(CodecTest.open(codec, syn.get().fields(),
                        syn.get().source().getAddress(), 0, TERMS).isEmpty());
            }
        }
        assertTrue(parsed > 50_000, "too few mutated lines reach the seal: " + parsed);
    }
}
