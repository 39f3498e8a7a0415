//DEPS org.bouncycastle:bcprov-jdk18on:1.87

import java.nio.ByteBuffer;
import java.util.BitSet;
import java.util.Optional;
import java.util.OptionalLong;

import org.bouncycastle.crypto.BlockCipher;
import org.bouncycastle.crypto.digests.SHA1Digest;
import org.bouncycastle.crypto.engines.AESEngine;
import org.bouncycastle.crypto.macs.HMac;
import org.bouncycastle.crypto.params.KeyParameter;

/**
 * Seals a request into the header fields of a SYN, and opens it again: PROTOCOL.md 3, 4 and 6.2 in
 * code. Numbers in, a value or a refusal out: no file, no clock, no randomness. Holds keys; for one
 * thread.
 */
final class KnockCodec {
    static final int KEY_LENGTH = 16;
    static final long LAST_COUNTER = 0xFFFF_FFFFL;
    private static final int TAG_LENGTH = 10, SEALED_LENGTH = 12;
    static final byte[] UNBOUND = {}; // the source of a knock that anyone may use

    /**
     * How a SYN carries sealed bytes: as the kernel's own SYN, or as the original knockknock does.
     */
    enum Carrier { COVER, CLASSIC }

    /**
     * The fields that carry a knock, unsigned; {@code id}: IPv4's ID or the flow label's low 16
     * bits.
     */
    record Fields(int id, long seq, long ack, int window, OptionalLong tsval) {}

    /** What a knock asks for, and the counter that it uses up. */
    record Request(int port, long counter) {}

    /**
     * What a receiver takes: how many counters from the next on, which ports, bound knocks only.
     */
    record Terms(int window, BitSet ports, boolean boundOnly) {}

    private final BlockCipher aes = AESEngine.newInstance();
    private final HMac hmac = new HMac(new SHA1Digest());
    private final byte[] tag = new byte[20];
    private byte[] pads = {}; // of a window's counters
    private long padsFrom; // the first of them

    /** Two keys of {@link #KEY_LENGTH} bytes each. */
    KnockCodec(byte[] cipherKey, byte[] macKey) {
        if (cipherKey.length != KEY_LENGTH || macKey.length != KEY_LENGTH) {
            throw new IllegalArgumentException("a key is " + KEY_LENGTH + " bytes");
        }
        aes.init(true, new KeyParameter(cipherKey));
        hmac.init(new KeyParameter(macKey));
    }

    /**
     * Seals {@code port} under a counter that must never be used again. Only {@code source} (an
     * address of 4 or 16 bytes) can use the knock, or anyone if it is empty. A cover's window is
     * left 0.
     */
    Fields seal(int port, long counter, Carrier carrier, byte[] source) {
        // sealed = (port || tag) XOR pad
        var sealed = new byte[SEALED_LENGTH];
        computePad(counter, sealed, 0);
        computeTag(port, source);
        sealed[0] ^= (byte) (port >> 8);
        sealed[1] ^= (byte) port;
        for (int i = 0; i < TAG_LENGTH; i++) {
            sealed[2 + i] ^= tag[i];
        }
        // Lay it out over the carrier's fields.
        var in = ByteBuffer.wrap(sealed);
        int id = Short.toUnsignedInt(in.getShort());
        long seq = Integer.toUnsignedLong(in.getInt()), third = Integer.toUnsignedLong(in.getInt());
        int fourth = Short.toUnsignedInt(in.getShort());
        return switch (carrier) {
            case COVER -> new Fields(id, seq, 0, 0, OptionalLong.of(third));
            case CLASSIC -> new Fields(id, seq, third, fourth, OptionalLong.empty());
        };
    }

    /** Opens a knock that came from {@code source}; empty if it is none that {@code terms} take. */
    Optional<Request> open(Fields f, byte[] source, long next, Terms terms) {
        // Gather the carried bytes: 10 of a cover (ACK number 0, a timestamp), 12 of all else.
        boolean cover = f.ack == 0 && f.tsval.isPresent();
        var out = ByteBuffer.allocate(cover ? 10 : 12).putShort((short) f.id).putInt((int) f.seq);
        var carried = cover ? out.putInt((int) f.tsval.getAsLong()).array()
                : out.putInt((int) f.ack).putShort((short) f.window).array();

        computePads(next, terms.window);
        long end = Math.min(next + terms.window, LAST_COUNTER + 1);
        for (long counter = next; counter < end; counter++) {
            // Unseal the port, and refuse one that is not to be opened before a tag is computed.
            int at = (int) (counter - next) * SEALED_LENGTH; // of the counter's pad
            int port = ((carried[0] ^ pads[at]) & 0xFF) << 8 | (carried[1] ^ pads[at + 1]) & 0xFF;
            if (!terms.ports.get(port)) {
                continue;
            }
            // Verify the tag, bound to the source, or else bound to none where that will do.
            if (isTag(carried, at, port, source)
                    || !terms.boundOnly && isTag(carried, at, port, UNBOUND)) {
                return Optional.of(new Request(port, counter));
            }
        }
        return Optional.empty();
    }

    /**
     * Compares as much of the tag as was carried, in a time that does not tell how much is right.
     */
    private boolean isTag(byte[] carried, int at, int port, byte[] source) {
        computeTag(port, source);
        int difference = 0;
        for (int i = 2; i < carried.length; i++) {
            difference |= carried[i] ^ pads[at + i] ^ tag[i - 2];
        }
        return difference == 0;
    }

    /** tag = HMAC-SHA1(mac key, port || source), of which the first 10 bytes count. */
    private void computeTag(int port, byte[] source) {
        hmac.update((byte) (port >> 8));
        hmac.update((byte) port);
        hmac.update(source, 0, source.length);
        hmac.doFinal(tag, 0); // and starts anew under the same key
    }

    /** pad = AES-128(cipher key, 12 zero bytes || counter as 4 bytes), of which 12 bytes count. */
    private void computePad(long counter, byte[] to, int at) {
        var block = ByteBuffer.allocate(16).putInt(12, (int) counter).array();
        aes.processBlock(block, 0, block, 0);
        System.arraycopy(block, 0, to, at, SEALED_LENGTH);
    }

    /** Computes the pads of next .. next + window - 1, unless they are there from the last time. */
    private void computePads(long next, int window) {
        if (padsFrom == next && pads.length == window * SEALED_LENGTH) {
            return;
        }
        pads = new byte[window * SEALED_LENGTH];
        padsFrom = next;
        for (int i = 0; i < window; i++) {
            computePad(next + i, pads, i * SEALED_LENGTH);
        }
    }
}
