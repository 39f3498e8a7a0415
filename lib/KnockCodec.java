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
 * Seals a request into the header fields of a SYN, and opens it again. PROTOCOL.md, sections 3, 4 and 6, is this file in
 * prose. Numbers in, a value or a refusal out: no file, no clock, no randomness. Holds keys; for one thread at a time.
 */
final class KnockCodec {
    static final int KEY_LENGTH = 16;
    static final long LAST_COUNTER = 0xFFFF_FFFFL;
    private static final int PORT_LENGTH = 2, TAG_LENGTH = 10, SEALED_LENGTH = PORT_LENGTH + TAG_LENGTH;
    private static final byte[] UNBOUND = {};

    /** How a SYN carries sealed bytes: looking like the kernel's own SYN, or as the original knockknock does. */
    enum Carrier { COVER, CLASSIC }

    /** The header fields that carry a knock, unsigned; {@code id} is IPv4's ID or the flow label's low 16 bits. */
    record Fields(int id, long seq, long ack, int window, OptionalLong tsval) {}

    /** What a knock asks for, and the counter that it uses up. */
    record Request(int port, long counter) {}

    /** What a receiver takes: how many counters from the next one on, which ports, and whether only bound knocks. */
    record Terms(int window, BitSet ports, boolean boundOnly) {}

    private final BlockCipher aes = AESEngine.newInstance();
    private final HMac hmac = new HMac(new SHA1Digest());
    private final byte[] tag = new byte[20];
    private byte[] pads = {}; // of the window's counters, one after the other
    private long padsEnd; // the first counter that has no pad there

    /** Two keys of {@link #KEY_LENGTH} bytes each. */
    KnockCodec(byte[] cipherKey, byte[] macKey) {
        if (cipherKey.length != KEY_LENGTH || macKey.length != KEY_LENGTH) {
            throw new IllegalArgumentException("a key is " + KEY_LENGTH + " bytes");
        }
        aes.init(true, new KeyParameter(cipherKey));
        hmac.init(new KeyParameter(macKey));
    }

    /**
     * Seals {@code port} under a counter that must never be used again. {@code source} is the address that alone may use
     * the knock, 4 or 16 bytes, or nothing. A cover leaves the window to the sender's kernel parameters: 0.
     */
    Fields seal(int port, long counter, Carrier carrier, byte[] source) {
        // sealed = (port || tag) XOR pad
        var sealed = new byte[SEALED_LENGTH];
        computePad(counter, sealed, 0);
        computeTag(port, source);
        sealed[0] ^= (byte) (port >> 8);
        sealed[1] ^= (byte) port;
        for (int i = 0; i < TAG_LENGTH; i++) {
            sealed[PORT_LENGTH + i] ^= tag[i];
        }
        // Lay it out over the carrier's fields.
        var in = ByteBuffer.wrap(sealed);
        int id = Short.toUnsignedInt(in.getShort());
        long seq = Integer.toUnsignedLong(in.getInt());
        long third = Integer.toUnsignedLong(in.getInt());
        return switch (carrier) {
            case COVER -> new Fields(id, seq, 0, 0, OptionalLong.of(third));
            case CLASSIC -> new Fields(id, seq, third, Short.toUnsignedInt(in.getShort()), OptionalLong.empty());
        };
    }

    /** Opens a knock from {@code source} with the first counter from {@code next} on that fits (PROTOCOL.md 6, step 4). */
    Optional<Request> open(Fields fields, byte[] source, long next, Terms terms) {
        // Gather the carried bytes.
        var carried = carried(fields);
        computePads(next, terms.window);
        long end = Math.min(next + terms.window, LAST_COUNTER + 1);
        for (long counter = next; counter < end; counter++) {
            // Unseal the port, and refuse one that may not be opened before any tag is computed.
            int pad = (int) (counter - next) * SEALED_LENGTH;
            int port = ((carried[0] ^ pads[pad]) & 0xFF) << 8 | (carried[1] ^ pads[pad + 1]) & 0xFF;
            if (!terms.ports.get(port)) {
                continue;
            }
            // Compare the tag, bound to the source and then, where that will do, unbound.
            if (isTag(carried, pad, port, source) || !terms.boundOnly && isTag(carried, pad, port, UNBOUND)) {
                return Optional.of(new Request(port, counter));
            }
        }
        return Optional.empty();
    }

    /** 10 bytes from a cover (no ACK number, a timestamp), 12 from anything else. */
    private static byte[] carried(Fields f) {
        boolean cover = f.ack == 0 && f.tsval.isPresent();
        var out = ByteBuffer.allocate(cover ? 10 : 12).putShort((short) f.id).putInt((int) f.seq);
        return (cover ? out.putInt((int) f.tsval.getAsLong()) : out.putInt((int) f.ack).putShort((short) f.window)).array();
    }

    /** Whether what was carried behind the port is the tag, as far as it was carried; takes the same time either way. */
    private boolean isTag(byte[] carried, int pad, int port, byte[] source) {
        computeTag(port, source);
        int difference = 0;
        for (int i = PORT_LENGTH; i < carried.length; i++) {
            difference |= carried[i] ^ pads[pad + i] ^ tag[i - PORT_LENGTH];
        }
        return difference == 0;
    }

    /** tag = HMAC-SHA1(mac key, port || source), of which the first 10 bytes count. */
    private void computeTag(int port, byte[] source) {
        hmac.update((byte) (port >> 8));
        hmac.update((byte) port);
        hmac.update(source, 0, source.length);
        hmac.doFinal(tag, 0);
    }

    /** pad = AES-128(cipher key, 12 zero bytes || counter as 4 bytes), of which the first 12 bytes count. */
    private void computePad(long counter, byte[] out, int at) {
        var block = ByteBuffer.allocate(16).putInt(12, (int) counter).array();
        aes.processBlock(block, 0, block, 0);
        System.arraycopy(block, 0, out, at, SEALED_LENGTH);
    }

    /** Computes the pads of next .. next + window - 1 that are not there from the last time. */
    private void computePads(long next, int window) {
        boolean some = pads.length == window * SEALED_LENGTH && next <= padsEnd && padsEnd - next <= window;
        int kept = some ? (int) (padsEnd - next) : 0;
        if (!some) {
            pads = new byte[window * SEALED_LENGTH];
        }
        System.arraycopy(pads, pads.length - kept * SEALED_LENGTH, pads, 0, kept * SEALED_LENGTH);
        for (int i = kept; i < window; i++) {
            computePad(next + i, pads, i * SEALED_LENGTH);
        }
        padsEnd = next + window;
    }
}
