import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.Optional;

/**
 * The counters that a receiver takes next, and the search for the one that opens a knock:
 * PROTOCOL.md 6.2, step 4, in code. Numbers in, a value or a refusal out; for one thread.
 */
final class KnockWindow {
    private static final int LARGEST = 10_000, LARGEST_FOR_ANY_PORT = 500;
    private static final int SMALLEST = 100, ALL_PROFILES = 1_000_000;

    /** What a knock asks for, and the counter that it uses up. */
    record Request(int port, long counter) {}

    /**
     * What a receiver takes: how many counters from the next on, which ports (any if it says none),
     * bound knocks only.
     */
    record Terms(int size, Optional<BitSet> ports, boolean boundOnly) {}

    private final KnockCodec codec;
    private final Terms terms;
    private long next;

    /**
     * For each counter of the window 48 bits of its pad, the bytes [2..8), above its own low 16
     * bits; sorted. All carriers carry these bytes. Empty where any port may be asked for.
     */
    private long[] pads = {};

    KnockWindow(KnockCodec codec, Terms terms, long next) {
        this.codec = codec;
        this.terms = terms;
        this.next = next;
        pads = withPads(pads, next, next + terms.size);
    }

    /**
     * How many counters one of {@code profiles} profiles takes, {@code wanted} or fewer. With
     * open_ports it can be many, as none of them costs an HMAC; but all of them lie in memory.
     */
    static int size(Optional<Integer> wanted, boolean hasOpenPorts, int profiles) {
        return hasOpenPorts
                ? Math.min(wanted.orElse(LARGEST), Math.max(SMALLEST, ALL_PROFILES / profiles))
                : Math.min(wanted.orElse(SMALLEST), LARGEST_FOR_ANY_PORT);
    }

    int size() {
        return terms.size;
    }

    /** Opens a knock that came from {@code source}; empty if it is none that the terms take. */
    Optional<Request> open(KnockCodec.Fields fields, byte[] source) {
        // A translator replaces the first two bytes. They are the port, which the tag covers.
        return open(fields.carried(), fields.translated() ? 2 : 0, source);
    }

    /** The same for what an address carries, 8 bytes: too few where any port may be asked for. */
    Optional<Request> open(byte[] address, byte[] source) {
        return terms.ports.isEmpty() ? Optional.empty()
                : open(Arrays.copyOfRange(address, 8, 16), 0, source);
    }

    private Optional<Request> open(byte[] carried, int from, byte[] source) {
        var sources = terms.boundOnly ? List.of(source) : List.of(source, KnockCodec.UNBOUND);
        if (terms.ports.isEmpty()) {
            return tryEachCounter(carried, sources);
        }
        var found = Optional.<Request>empty();
        for (int port = terms.ports.get().nextSetBit(0); port >= 0;
                port = terms.ports.get().nextSetBit(port + 1)) {
            for (var bound : sources) {
                // Compute what was sealed, and look for a pad that makes of it what was carried.
                var plaintext = codec.plaintext(port, bound);
                long wanted = (bits48(carried) ^ bits48(plaintext)) << 16;
                int at = Arrays.binarySearch(pads, wanted);
                at = at < 0 ? -at - 1 : at;
                for (; at < pads.length && (pads[at] ^ wanted) >>> 16 == 0; at++) {
                    // Compare all that was carried; the first counter that fits wins.
                    long counter = next + (pads[at] - next & 0xFFFF);
                    if (isSealed(carried, from, plaintext, codec.pad(counter))
                            && (found.isEmpty() || counter < found.get().counter)) {
                        found = Optional.of(new Request(port, counter));
                    }
                }
            }
        }
        return found;
    }

    /** The port may be any, and differs from counter to counter: so does the tag. */
    private Optional<Request> tryEachCounter(byte[] carried, List<byte[]> sources) {
        long end = Math.min(next + terms.size, Counter.LAST + 1);
        for (long counter = next; counter < end; counter++) {
            var pad = codec.pad(counter);
            int port = ((carried[0] ^ pad[0]) & 0xFF) << 8 | (carried[1] ^ pad[1]) & 0xFF;
            for (var bound : sources) {
                if (port != 0 && isSealed(carried, 2, codec.plaintext(port, bound), pad)) {
                    return Optional.of(new Request(port, counter));
                }
            }
        }
        return Optional.empty();
    }

    /**
     * Whether carried[from..) is {@code plaintext} under this pad, found out in a time that does
     * not tell how much of it is.
     */
    private static boolean isSealed(byte[] carried, int from, byte[] plaintext, byte[] pad) {
        int difference = 0;
        for (int i = from; i < carried.length; i++) {
            difference |= carried[i] ^ pad[i] ^ plaintext[i];
        }
        return difference == 0;
    }

    /** Goes on to the counters from {@code later} on; what it keeps is not computed anew. */
    void moveTo(long later) {
        long first = next;
        next = later;
        pads = withPads(Arrays.stream(pads)
                .filter(pad -> first + (pad - first & 0xFFFF) >= later).toArray(),
                Math.max(later, first + terms.size), later + terms.size);
    }

    /** {@code kept}, and the pads of the counters [from..to), but not above the last one. */
    private long[] withPads(long[] kept, long from, long to) {
        if (terms.ports.isEmpty()) {
            return kept;
        }
        int count = (int) Math.clamp(Counter.LAST + 1 - from, 0, to - from);
        var all = Arrays.copyOf(kept, kept.length + count);
        for (int i = 0; i < count; i++) {
            all[kept.length + i] = bits48(codec.pad(from + i)) << 16 | from + i & 0xFFFF;
        }
        Arrays.sort(all);
        return all;
    }

    /** Bytes [2..8). */
    private static long bits48(byte[] bytes) {
        return ByteBuffer.wrap(bytes).getLong(0) & 0xFFFF_FFFF_FFFFL;
    }
}
