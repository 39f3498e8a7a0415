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
import java.util.List;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Random;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvFileSource;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * The seal and the carriers against vectors made with the original knockknock, and against
 * tampering.
 */
class CodecTest {
    private static final HexFormat HEX = HexFormat.of();
    private static final byte[] UNBOUND = {};
    private static final byte[] HERE = InetAddress.ofLiteral("203.0.113.7").getAddress();
    private static final byte[] ELSEWHERE = InetAddress.ofLiteral("203.0.113.8").getAddress();
    private final KnockCodec codec =
            new KnockCodec(HEX.parseHex("00112233445566778899aabbccddeeff"), new byte[16]);

    static KnockWindow.Terms terms(int window, boolean boundOnly, int... ports) {
        var set = new BitSet();
        for (int port : ports) {
            set.set(port);
        }
        return new KnockWindow.Terms(window, ports.length == 0 ? Optional.empty()
                : Optional.of(set), boundOnly);
    }

    static Optional<KnockWindow.Request> open(KnockCodec codec, KnockCodec.Fields fields,
            byte[] source, long next,
            KnockWindow.Terms terms) {
        return new KnockWindow(codec, terms, next).open(fields, source);
    }

    private static String sealed(KnockCodec.Fields classic) {
        return HEX.formatHex(ByteBuffer.allocate(12).putShort((short) classic.id())
                .putInt((int) classic.seq())
                .putInt((int) classic.ack()).putShort((short) classic.window()).array());
    }

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors.csv", numLinesToSkip = 1)
    void theOriginalsVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port,
            String sealed, int id,
            long seq, long ack, int window, long tsval) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var classic = codec.seal(port, counter, Carrier.CLASSIC, UNBOUND);
        assertEquals(new KnockCodec.Fields(id, seq, ack, window, OptionalLong.empty(), false),
                classic);
        assertEquals(sealed, sealed(classic));
        var cover = codec.seal(port, counter, Carrier.COVER, UNBOUND);
        assertEquals(new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(tsval), false), cover);

        var expected = port == 0 ? Optional.empty()
                : Optional.of(new KnockWindow.Request(port, counter));
        assertEquals(expected, open(codec, classic, HERE, counter, terms(1, false)));
        assertEquals(expected, open(codec, cover, HERE, counter, terms(1, false)));
        assertTrue(open(codec, cover, HERE, counter, terms(1, true)).isEmpty(),
                "unbound, where only bound ones will do");
        if (port != 0) { // also by the search among the pads
            assertEquals(expected, open(codec, classic, HERE, counter, terms(9, false, 1, port)));
            assertEquals(expected, open(codec, cover, HERE, counter, terms(9, false, 1, port)));
            assertTrue(open(codec, cover, HERE, counter, terms(9, true, port)).isEmpty());
        }
    }

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors-bound.csv", numLinesToSkip = 1)
    void theBoundVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port,
            String source, String sealed,
            int id, long seq, long tsval) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var address = InetAddress.ofLiteral(source).getAddress();
        var cover = codec.seal(port, counter, Carrier.COVER, address);
        assertEquals(new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(tsval), false), cover);
        assertEquals(sealed, sealed(codec.seal(port, counter, Carrier.CLASSIC, address)));
        for (boolean boundOnly : new boolean[] {true, false}) {
            assertEquals(Optional.of(new KnockWindow.Request(port, counter)),
                    open(codec, cover, address, counter, terms(1, boundOnly)));
            assertTrue(open(codec, cover, ELSEWHERE, counter, terms(1, boundOnly)).isEmpty());
            assertEquals(Optional.of(new KnockWindow.Request(port, counter)),
                    open(codec, cover, address, counter, terms(9, boundOnly, port)));
            assertTrue(open(codec, cover, ELSEWHERE, counter, terms(9, boundOnly, port)).isEmpty());
        }
    }

    @Test
    void theVectorsInTheProtocolDocumentHold() throws IOException {
        var rows = Pattern.compile("\\| ([0-9a-f]{32}) \\| ([0-9a-f]{32}) \\| (\\d+) \\| (\\d+) "
                + "\\| (\\S+) \\| ([0-9a-f]{24}) \\|")
                .matcher(Files.readString(Path.of("PROTOCOL.md"))).results().toList();
        assertEquals(10, rows.size());
        for (var row : rows) {
            var codec = new KnockCodec(HEX.parseHex(row.group(1)), HEX.parseHex(row.group(2)));
            var source = row.group(5).equals("none") ? UNBOUND
                    : InetAddress.ofLiteral(row.group(5)).getAddress();
            assertEquals(row.group(6), sealed(codec.seal(Integer.parseInt(row.group(4)),
                    Long.parseLong(row.group(3)),
                    Carrier.CLASSIC, source)));
        }
        var third = rows.get(2);
        var codec = new KnockCodec(HEX.parseHex(third.group(1)), HEX.parseHex(third.group(2)));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 0, 0, OptionalLong.of(3745731316L),
                false),
                codec.seal(255, 255, Carrier.COVER, UNBOUND));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 3745731316L, 62250,
                OptionalLong.empty(), false),
                codec.seal(255, 255, Carrier.CLASSIC, UNBOUND));
    }

    @ParameterizedTest
    @EnumSource(names = {"COVER", "CLASSIC"}) // what an address carries: AddressTest
    void anyFlippedBitIsRefused(Carrier carrier) {
        for (var source : new byte[][] {UNBOUND, HERE}) {
            var f = codec.seal(22, 7, carrier, source);
            assertTrue(open(codec, f, HERE, 0, terms(100, false)).isPresent());
            for (int bit = 0; bit < 32; bit++) {
                long flip = 1L << bit;
                assertRefused(new KnockCodec.Fields(f.id(), f.seq() ^ flip, f.ack(), f.window(),
                        f.tsval(), false));
                assertRefused(carrier == Carrier.COVER
                        ? new KnockCodec.Fields(f.id(), f.seq(), f.ack(), f.window(),
                                OptionalLong.of(f.tsval().getAsLong() ^ flip), false)
                        : new KnockCodec.Fields(f.id(), f.seq(), f.ack() ^ flip, f.window(),
                                f.tsval(), false));
                if (bit < 16) {
                    assertRefused(new KnockCodec.Fields(f.id() ^ (int) flip, f.seq(), f.ack(),
                            f.window(), f.tsval(), false));
                }
                if (bit < 16 && carrier == Carrier.CLASSIC) {
                    assertRefused(new KnockCodec.Fields(f.id(), f.seq(), f.ack(),
                            f.window() ^ (int) flip, f.tsval(), false));
                }
            }
        }
    }

    private void assertRefused(KnockCodec.Fields fields) {
        assertTrue(open(codec, fields, HERE, 0, terms(100, false)).isEmpty(), fields.toString());
        assertTrue(open(codec, fields, HERE, 0, terms(100, false, 22)).isEmpty(),
                fields.toString());
    }

    @ParameterizedTest
    @EnumSource(names = {"COVER", "CLASSIC"}) // what an address carries: AddressTest
    void onlyTheWindowsCountersOpen(Carrier carrier) {
        for (long counter : new long[] {0, 999, 1000, 1001, 1019, 1020, 1021, Counter.LAST}) {
            var expected = counter >= 1000 && counter < 1020
                    ? Optional.of(new KnockWindow.Request(443, counter)) : Optional.empty();
            assertEquals(expected, open(codec, codec.seal(443, counter, carrier, HERE), HERE, 1000,
                    terms(20, false)), "counter " + counter);
        }
    }

    /**
     * The window's pads are kept from one line to the next: whatever came before must make no
     * difference.
     */
    @Test
    void aWindowThatMovesIsAsOneThatIsMadeAnew() {
        var random = new Random(2);
        var terms = terms(50, true, 22);
        // across two wraps of the low 16 bits, and up to the last counter
        long next = Counter.LAST - 70_000;
        var window = new KnockWindow(codec, terms, next);
        while (next <= Counter.LAST) {
            long counter = Math.min(Counter.LAST, next + random.nextInt(60));
            var knock = codec.seal(22, counter, Carrier.COVER, HERE);
            var expected = counter < next + 50 ? Optional.of(new KnockWindow.Request(22, counter))
                    : Optional.empty();
            assertEquals(expected, window.open(knock, HERE));
            if (expected.isPresent()) {
                next = counter + 1;
                window.moveTo(next);
                assertEquals(Optional.empty(), window.open(knock, HERE), "a replay");
            }
        }
    }

    @Test
    void tenThousandCountersAheadAKnockStillOpensWhereThePortsAreFew() {
        var window = new KnockWindow(codec,
                terms(KnockWindow.size(Optional.empty(), true, 1), false, 22, 443), 5);
        for (var source : new byte[][] {UNBOUND, HERE}) {
            for (var carrier : List.of(Carrier.COVER, Carrier.CLASSIC)) {
                assertEquals(Optional.of(new KnockWindow.Request(443, 10_004)),
                        window.open(codec.seal(443, 10_004, carrier, source), HERE));
                assertEquals(Optional.empty(),
                        window.open(codec.seal(443, 10_005, carrier, source), HERE));
                assertEquals(Optional.empty(),
                        window.open(codec.seal(443, 4, carrier, source), HERE));
            }
        }
        window.moveTo(10_005);
        assertEquals(Optional.of(new KnockWindow.Request(22, 20_004)),
                window.open(codec.seal(22, 20_004, Carrier.COVER, HERE), HERE));
    }

    @Test
    void aMillionCountersAreSharedAmongTheProfilesWithOpenPorts() {
        assertEquals(10_000, KnockWindow.size(Optional.empty(), true, 100));
        assertEquals(1000, KnockWindow.size(Optional.empty(), true, 1000));
        assertEquals(100, KnockWindow.size(Optional.empty(), true, 50_000));
        assertEquals(3000, KnockWindow.size(Optional.of(3000), true, 1));
        assertEquals(100, KnockWindow.size(Optional.empty(), false, 1));
        assertEquals(500, KnockWindow.size(Optional.of(10_000), false, 1));
    }

    /** What a translator leaves of a knock: everything but the IP ID or the flow label. */
    private static KnockCodec.Fields translated(KnockCodec.Fields f, int id) {
        return new KnockCodec.Fields(id, f.seq(), f.ack(), f.window(), f.tsval(), true);
    }

    @ParameterizedTest
    @EnumSource(names = {"COVER", "CLASSIC"}) // what an address carries: AddressTest
    void aTranslatedKnockOpensWhereThePortsAreNamedAndOnlyThere(Carrier carrier) {
        for (var source : new byte[][] {UNBOUND, HERE}) {
            var knock = codec.seal(443, 3, carrier, source);
            for (int id : new int[] {0, 7, knock.id()}) {
                assertEquals(Optional.of(new KnockWindow.Request(443, 3)),
                        open(codec, translated(knock, id), HERE, 0, terms(100, false, 22, 443)));
                assertTrue(open(codec, translated(knock, id), HERE, 0, terms(100, false, 22))
                        .isEmpty());
            }
            assertTrue(open(codec, translated(knock, 0), HERE, 0, terms(100, false)).isEmpty(),
                    "any port");
            var id = knock.id() ^ 1;
            assertTrue(open(codec, new KnockCodec.Fields(id, knock.seq(), knock.ack(),
                    knock.window(), knock.tsval(), false),
                    HERE, 0, terms(100, false, 443)).isEmpty(), "an ID that nobody translated");
            for (int bit = 0; bit < 32; bit++) {
                var f = new KnockCodec.Fields(0, knock.seq() ^ 1L << bit, knock.ack(),
                        knock.window(), knock.tsval(), true);
                assertTrue(open(codec, f, HERE, 0, terms(100, false, 443)).isEmpty());
            }
        }
    }

    @Test
    void aMillionForgedTranslatedKnocksDoNotOpen() {
        var window = new KnockWindow(codec, terms(10_000, false, 22), 0);
        var random = new Random(4);
        for (int i = 0; i < 1_000_000; i++) {
            var forged = new KnockCodec.Fields(0, random.nextLong(1L << 32), 0, 64240,
                    OptionalLong.of(random.nextLong(1L << 32)), true);
            assertTrue(window.open(forged, HERE).isEmpty());
        }
    }

    @Test
    void theWindowEndsWithTheLastCounter() {
        long last = Counter.LAST;
        var terms = terms(100, false);
        assertEquals(Optional.of(new KnockWindow.Request(22, last)),
                open(codec, codec.seal(22, last, Carrier.COVER, HERE), HERE, last, terms));
        var first = codec.seal(22, 0, Carrier.COVER, HERE);
        assertTrue(open(codec, first, HERE, last, terms).isEmpty(), "counters must not wrap round");
        assertTrue(open(codec, first, HERE, last + 1, terms).isEmpty());
    }

    @Test
    void aPortThatIsNotAmongTheReceiversIsRefused() {
        var knock = codec.seal(22, 0, Carrier.COVER, UNBOUND);
        assertTrue(open(codec, knock, HERE, 0, terms(20, false, 443, 8080)).isEmpty());
        assertEquals(Optional.of(new KnockWindow.Request(22, 0)),
                open(codec, knock, HERE, 0, terms(20, false, 22)));
        var port0 = codec.seal(0, 1, Carrier.COVER, UNBOUND);
        assertTrue(open(codec, port0, HERE, 0, terms(20, false)).isEmpty());
    }

    @Test
    void boundAndUnboundKnocksOfOneProfileOpenInAnyOrder() {
        for (int counter = 0; counter < 50; counter++) {
            var source = counter % 3 == 0 ? UNBOUND : HERE;
            assertEquals(Optional.of(new KnockWindow.Request(22, counter)),
                    open(codec, codec.seal(22, counter, Carrier.COVER, source), HERE, counter,
                            terms(20, false)));
        }
    }

    @Test
    void bytesWithoutTheKeyNeverOpen() {
        var random = new Random(1);
        for (int i = 0; i < 20_000; i++) {
            var tsval = i % 2 == 0 ? OptionalLong.of(random.nextLong(1L << 32))
                    : OptionalLong.empty();
            var fields = new KnockCodec.Fields(random.nextInt(65536), random.nextLong(1L << 32),
                    i % 2 == 0 ? 0 : random.nextLong(1L << 32), random.nextInt(65536), tsval,
                            false);
            assertTrue(open(codec, fields, HERE, 0, terms(20, false)).isEmpty());
        }
    }

    @Test
    void keysOfAnotherLengthAreRefused() {
        assertThrows(IllegalArgumentException.class,
                () -> new KnockCodec(new byte[15], new byte[16]));
        assertThrows(IllegalArgumentException.class,
                () -> new KnockCodec(new byte[16], new byte[32]));
    }
}
