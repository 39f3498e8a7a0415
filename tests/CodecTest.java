import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
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
    private final KnockCodec codec = new KnockCodec(HEX.parseHex("00112233445566778899aabbccddeeff"), new byte[16]);

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors.csv", numLinesToSkip = 1)
    void theOriginalsVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port, String sealed, int id,
            long seq, long ack, int window, long tsval) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var bytes = codec.seal(port, counter);
        assertEquals(sealed, HEX.formatHex(bytes));

        var classic = KnockCodec.fields(bytes, KnockCodec.Carrier.CLASSIC);
        assertEquals(new KnockCodec.Fields(id, seq, ack, window, OptionalLong.empty()), classic);
        assertArrayEquals(bytes, KnockCodec.carried(classic));

        var cover = KnockCodec.fields(bytes, KnockCodec.Carrier.COVER);
        assertEquals(new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(tsval)), cover);
        assertArrayEquals(Arrays.copyOf(bytes, 10), KnockCodec.carried(cover));

        var expected = port == 0 ? Optional.empty() : Optional.of(new KnockCodec.Request(port, counter));
        assertEquals(expected, codec.open(KnockCodec.carried(classic), counter, 1));
        assertEquals(expected, codec.open(KnockCodec.carried(cover), counter, 1));
    }

    @Test
    void theVectorsInTheProtocolDocumentHold() throws IOException {
        var rows = Pattern.compile("\\| ([0-9a-f]{32}) \\| ([0-9a-f]{32}) \\| (\\d+) \\| (\\d+) \\| ([0-9a-f]{24}) \\|")
                .matcher(Files.readString(Path.of("PROTOCOL.md"))).results().toList();
        assertEquals(6, rows.size());
        for (var row : rows) {
            var codec = new KnockCodec(HEX.parseHex(row.group(1)), HEX.parseHex(row.group(2)));
            assertEquals(row.group(5), HEX.formatHex(codec.seal(Integer.parseInt(row.group(4)), Long.parseLong(row.group(3)))));
        }
        var third = HEX.parseHex(rows.get(2).group(5));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 0, 0, OptionalLong.of(3745731316L)),
                KnockCodec.fields(third, KnockCodec.Carrier.COVER));
        assertEquals(new KnockCodec.Fields(4330, 854930487, 3745731316L, 62250, OptionalLong.empty()),
                KnockCodec.fields(third, KnockCodec.Carrier.CLASSIC));
    }

    @ParameterizedTest
    @EnumSource
    void anyFlippedBitIsRefused(KnockCodec.Carrier carrier) {
        var carried = KnockCodec.carried(KnockCodec.fields(codec.seal(22, 7), carrier));
        assertTrue(codec.open(carried, 0, 100).isPresent());
        for (int bit = 0; bit < carried.length * 8; bit++) {
            var flipped = carried.clone();
            flipped[bit / 8] ^= (byte) (1 << bit % 8);
            assertTrue(codec.open(flipped, 0, 100).isEmpty(), "bit " + bit);
        }
    }

    @ParameterizedTest
    @EnumSource
    void onlyTheWindowsCountersOpen(KnockCodec.Carrier carrier) {
        for (long counter : new long[] {0, 999, 1000, 1001, 1019, 1020, 1021, KnockCodec.LAST_COUNTER}) {
            var carried = KnockCodec.carried(KnockCodec.fields(codec.seal(443, counter), carrier));
            var expected = counter >= 1000 && counter < 1020
                    ? Optional.of(new KnockCodec.Request(443, counter)) : Optional.empty();
            assertEquals(expected, codec.open(carried, 1000, 20), "counter " + counter);
        }
    }

    @Test
    void theWindowEndsWithTheLastCounter() {
        assertEquals(Optional.of(new KnockCodec.Request(22, KnockCodec.LAST_COUNTER)),
                codec.open(codec.seal(22, KnockCodec.LAST_COUNTER), KnockCodec.LAST_COUNTER, 100));
        assertTrue(codec.open(codec.seal(22, 0), KnockCodec.LAST_COUNTER, 100).isEmpty(), "counters must not wrap round");
        assertTrue(codec.open(codec.seal(22, 0), KnockCodec.LAST_COUNTER + 1, 100).isEmpty());
    }

    @Test
    void bytesWithoutTheKeyNeverOpen() {
        var random = new Random(1);
        for (int i = 0; i < 20_000; i++) {
            var carried = new byte[i % 2 == 0 ? 10 : 12];
            random.nextBytes(carried);
            assertTrue(codec.open(carried, 0, 20).isEmpty());
        }
    }

    @Test
    void keysOfAnotherLengthAreRefused() {
        assertThrows(IllegalArgumentException.class, () -> new KnockCodec(new byte[15], new byte[16]));
        assertThrows(IllegalArgumentException.class, () -> new KnockCodec(new byte[16], new byte[32]));
    }
}
