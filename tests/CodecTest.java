import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.BitSet;
import java.util.HexFormat;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Random;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvFileSource;
import org.junit.jupiter.params.provider.EnumSource;

/** The seal and the carriers against vectors made with the original knockknock, and against tampering. */
class CodecTest {
    private static final HexFormat HEX = HexFormat.of();
    private static final byte[] UNBOUND = {};
    private static final byte[] HERE = InetAddress.ofLiteral("203.0.113.7").getAddress();
    private static final byte[] ELSEWHERE = InetAddress.ofLiteral("203.0.113.8").getAddress();
    private final KnockCodec codec = new KnockCodec(HEX.parseHex("00112233445566778899aabbccddeeff"), new byte[16]);

    static KnockCodec.Terms terms(int window, boolean boundOnly, int... ports) {
        var set = new BitSet();
        if (ports.length == 0) {
            set.set(1, 65536);
        }
        for (int port : ports) {
            set.set(port);
        }
        return new KnockCodec.Terms(window, set, boundOnly);
    }

    private static String sealed(KnockCodec.Fields classic) {
        return HEX.formatHex(ByteBuffer.allocate(12).putShort((short) classic.id()).putInt((int) classic.seq())
                .putInt((int) classic.ack()).putShort((short) classic.window()).array());
    }

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors.csv", numLinesToSkip = 1)
    void theOriginalsVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port, String sealed, int id,
            long seq, long ack, int window, long tsval) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var classic = codec.seal(port, counter, KnockCodec.Carrier.CLASSIC, UNBOUND);
        assertEquals(new KnockCodec.Fields(id, seq, ack, window, OptionalLong.empty()), classic);
        assertEquals(sealed, sealed(classic));
        var cover = codec.seal(port, counter, KnockCodec.Carrier.COVER, UNBOUND);
        assertEquals(new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(tsval)), cover);

        var expected = port == 0 ? Optional.empty() : Optional.of(new KnockCodec.Request(port, counter));
        assertEquals(expected, codec.open(classic, HERE, counter, terms(1, false)));
        assertEquals(expected, codec.open(cover, HERE, counter, terms(1, false)));
        assertTrue(codec.open(cover, HERE, counter, terms(1, true)).isEmpty(), "unbound, where only bound ones will do");
    }

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors-bound.csv", numLinesToSkip = 1)
    void theBoundVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port, String source, String sealed,
            int id, long seq, long tsval) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var address = InetAddress.ofLiteral(source).getAddress();
        var cover = codec.seal(port, counter, KnockCodec.Carrier.COVER, address);
        assertEquals(new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(tsval)), cover);
        assertEquals(sealed, sealed(codec.seal(port, counter, KnockCodec.Carrier.CLASSIC, address)));
        for (boolean boundOnly : new boolean[] {true, false}) {
            assertEquals(Optional.of(new KnockCodec.Request(port, counter)),
                    codec.open(cover, address, counter, terms(1, boundOnly)));
            assertTrue(codec.open(cover, ELSEWHERE, counter, terms(1, boundOnly)).isEmpty());
        }
    }

    @Test
    void theVectorsInTheProtocolDocumentHold() throws IOException {
        var rows = Pattern.compile("\\| ([0-9a-f]{32}) \\| ([0-9a-f]{32}) \\| (\\d+) \\| (\\d+) \\| (\\S+) \\| ([0-9a-f]{24}) \\|")
                .matcher(Files.readString(Path.of("PROTOCOL.md"))).results().toList();
        assertEquals(10, rows.size());
        for (var row : rows) {
            var codec = new KnockCodec(HEX.parseHex(row.group(1)), HEX.parseHex(row.group(2)));
            var source = row.group(5).equals("none") ? UNBOUND : InetAddress.ofLiteral(row.group(5)).getAddress();
            assertEquals(row.group(6), sealed(codec.seal(Integer.parseInt(row.group(4)), Long.parseLong(row.group(3)),
                    KnockCodec.Carrier.CLASSIC, source)));
        }
        var third = rows.get(2);
        var codec = new KnockCodec(HEX.parseHex(third.group(1)), HEX.parseHex(third.group(2)));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 0, 0, OptionalLong.of(3745731316L)),
                codec.seal(255, 255, KnockCodec.Carrier.COVER, UNBOUND));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 3745731316L, 62250, OptionalLong.empty()),
                codec.seal(255, 255, KnockCodec.Carrier.CLASSIC, UNBOUND));
    }

    @ParameterizedTest
    @EnumSource
    void anyFlippedBitIsRefused(KnockCodec.Carrier carrier) {
        for (var source : new byte[][] {UNBOUND, HERE}) {
            var f = codec.seal(22, 7, carrier, source);
            assertTrue(codec.open(f, HERE, 0, terms(100, false)).isPresent());
            for (int bit = 0; bit < 32; bit++) {
                long flip = 1L << bit;
                assertRefused(new KnockCodec.Fields(f.id(), f.seq() ^ flip, f.ack(), f.window(), f.tsval()));
                assertRefused(carrier == KnockCodec.Carrier.COVER
                        ? new KnockCodec.Fields(f.id(), f.seq(), f.ack(), f.window(), OptionalLong.of(f.tsval().getAsLong() ^ flip))
                        : new KnockCodec.Fields(f.id(), f.seq(), f.ack() ^ flip, f.window(), f.tsval()));
                if (bit < 16) {
                    assertRefused(new KnockCodec.Fields(f.id() ^ (int) flip, f.seq(), f.ack(), f.window(), f.tsval()));
                }
                if (bit < 16 && carrier == KnockCodec.Carrier.CLASSIC) {
                    assertRefused(new KnockCodec.Fields(f.id(), f.seq(), f.ack(), f.window() ^ (int) flip, f.tsval()));
                }
            }
        }
    }

    private void assertRefused(KnockCodec.Fields fields) {
        assertTrue(codec.open(fields, HERE, 0, terms(100, false)).isEmpty(), fields.toString());
    }

    @ParameterizedTest
    @EnumSource
    void onlyTheWindowsCountersOpen(KnockCodec.Carrier carrier) {
        for (long counter : new long[] {0, 999, 1000, 1001, 1019, 1020, 1021, KnockCodec.LAST_COUNTER}) {
            var expected = counter >= 1000 && counter < 1020
                    ? Optional.of(new KnockCodec.Request(443, counter)) : Optional.empty();
            assertEquals(expected, codec.open(codec.seal(443, counter, carrier, HERE), HERE, 1000, terms(20, false)), "counter " + counter);
        }
    }

    /** The window's pads are kept from one line to the next: whatever came before must make no difference. */
    @Test
    void theWindowMayMoveInAnyWay() {
        var random = new Random(2);
        long next = 0;
        for (int i = 0; i < 2000; i++) {
            next = random.nextInt(4) == 0 ? random.nextInt(1000) : next + random.nextInt(30);
            int window = random.nextInt(10) == 0 ? 7 : 20;
            long counter = next + random.nextInt(30);
            var expected = counter < next + window ? Optional.of(new KnockCodec.Request(22, counter)) : Optional.empty();
            assertEquals(expected, codec.open(codec.seal(22, counter, KnockCodec.Carrier.COVER, HERE), HERE, next, terms(window, true)));
        }
    }

    @Test
    void theWindowEndsWithTheLastCounter() {
        long last = KnockCodec.LAST_COUNTER;
        var terms = terms(100, false);
        assertEquals(Optional.of(new KnockCodec.Request(22, last)),
                codec.open(codec.seal(22, last, KnockCodec.Carrier.COVER, HERE), HERE, last, terms));
        var first = codec.seal(22, 0, KnockCodec.Carrier.COVER, HERE);
        assertTrue(codec.open(first, HERE, last, terms).isEmpty(), "counters must not wrap round");
        assertTrue(codec.open(first, HERE, last + 1, terms).isEmpty());
    }

    @Test
    void aPortThatIsNotAmongTheReceiversIsRefused() {
        var knock = codec.seal(22, 0, KnockCodec.Carrier.COVER, UNBOUND);
        assertTrue(codec.open(knock, HERE, 0, terms(20, false, 443, 8080)).isEmpty());
        assertEquals(Optional.of(new KnockCodec.Request(22, 0)), codec.open(knock, HERE, 0, terms(20, false, 22)));
        var port0 = codec.seal(0, 1, KnockCodec.Carrier.COVER, UNBOUND);
        assertTrue(codec.open(port0, HERE, 0, terms(20, false)).isEmpty());
    }

    @Test
    void boundAndUnboundKnocksOfOneProfileOpenInAnyOrder() {
        for (int counter = 0; counter < 50; counter++) {
            var source = counter % 3 == 0 ? UNBOUND : HERE;
            assertEquals(Optional.of(new KnockCodec.Request(22, counter)),
                    codec.open(codec.seal(22, counter, KnockCodec.Carrier.COVER, source), HERE, counter, terms(20, false)));
        }
    }

    @Test
    void bytesWithoutTheKeyNeverOpen() {
        var random = new Random(1);
        for (int i = 0; i < 20_000; i++) {
            var tsval = i % 2 == 0 ? OptionalLong.of(random.nextLong(1L << 32)) : OptionalLong.empty();
            var fields = new KnockCodec.Fields(random.nextInt(65536), random.nextLong(1L << 32),
                    i % 2 == 0 ? 0 : random.nextLong(1L << 32), random.nextInt(65536), tsval);
            assertTrue(codec.open(fields, HERE, 0, terms(20, false)).isEmpty());
        }
    }

    @Test
    void keysOfAnotherLengthAreRefused() {
        assertThrows(IllegalArgumentException.class, () -> new KnockCodec(new byte[15], new byte[16]));
        assertThrows(IllegalArgumentException.class, () -> new KnockCodec(new byte[16], new byte[32]));
    }
}
