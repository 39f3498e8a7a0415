//DEPS org.bouncycastle:bcprov-jdk18on:1.87

import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.util.OptionalLong;

import org.bouncycastle.crypto.BlockCipher;
import org.bouncycastle.crypto.digests.SHA1Digest;
import org.bouncycastle.crypto.engines.AESEngine;
import org.bouncycastle.crypto.macs.HMac;
import org.bouncycastle.crypto.params.KeyParameter;

/**
 * What a request is sealed with, and how it lies in the header fields of a SYN: PROTOCOL.md 3 and 4
 * in code. Seals; a receiver opens with {@code KnockWindow}. Numbers in, a value out: no file, no
 * clock, no randomness. Holds keys; for one thread.
 */
final class KnockCodec {
    static final int KEY_LENGTH = 16;
    static final int SEALED_LENGTH = 12; // port and tag
    static final byte[] UNBOUND = {}; // the source of a knock that anyone may use

    /**
     * The fields that carry a knock, unsigned; {@code id}: IPv4's ID or the flow label's low 16
     * bits; {@code translated}: somebody on the way may have replaced it.
     */
    record Fields(int id, long seq, long ack, int window, OptionalLong tsval, boolean translated) {
        /** ACK number 0 and a timestamp make a cover, anything else a classic. */
        boolean isCover() {
            return ack == 0 && tsval.isPresent();
        }

        /** The sealed bytes: 10 of a cover, 12 of a classic. */
        byte[] carried() {
            var bytes = ByteBuffer.allocate(isCover() ? 10 : 12).putShort((short) id)
                    .putInt((int) seq);
            return isCover() ? bytes.putInt((int) tsval.getAsLong()).array()
                    : bytes.putInt((int) ack).putShort((short) window).array();
        }
    }

    private final BlockCipher aes = AESEngine.newInstance();
    private final HMac hmac = new HMac(new SHA1Digest());

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
     * left 0; an address has the fields of a cover, of which it carries 8 bytes.
     */
    Fields seal(int port, long counter, Carrier carrier, byte[] source) {
        // sealed = (port || tag) XOR pad
        var sealed = plaintext(port, source);
        var pad = pad(counter);
        for (int i = 0; i < SEALED_LENGTH; i++) {
            sealed[i] ^= pad[i];
        }
        // Lay it out over the carrier's fields.
        var in = ByteBuffer.wrap(sealed);
        int id = Short.toUnsignedInt(in.getShort(0));
        long seq = Integer.toUnsignedLong(in.getInt(2));
        long bytes6to10 = Integer.toUnsignedLong(in.getInt(6));
        int bytes10to12 = Short.toUnsignedInt(in.getShort(10));
        return switch (carrier) {
            case COVER, ADDRESS -> new Fields(id, seq, 0, 0, OptionalLong.of(bytes6to10), false);
            case CLASSIC -> new Fields(id, seq, bytes6to10, bytes10to12, OptionalLong.empty(),
                    false);
        };
    }

    /** The address in the network of {@code server}, a /64, that carries a knock (RFC 4291). */
    static InetAddress address(InetAddress server, Fields fields) {
        try {
            return InetAddress.getByAddress(ByteBuffer.allocate(16).put(server.getAddress(), 0, 8)
                    .put(fields.carried(), 0, 8).array());
        } catch (UnknownHostException e) {
            throw new IllegalStateException(e); // 16 bytes are an address
        }
    }

    /** port || tag, the tag being HMAC-SHA1(mac key, port || source); the first 12 bytes count. */
    byte[] plaintext(int port, byte[] source) {
        var plaintext = new byte[2 + hmac.getMacSize()];
        plaintext[0] = (byte) (port >> 8);
        plaintext[1] = (byte) port;
        hmac.update(plaintext, 0, 2);
        hmac.update(source, 0, source.length);
        hmac.doFinal(plaintext, 2); // and starts anew under the same key
        return plaintext;
    }

    /** pad = AES-128(cipher key, 12 zero bytes || counter as 4 bytes); the first 12 bytes count. */
    byte[] pad(long counter) {
        var block = ByteBuffer.allocate(16).putInt(12, (int) counter).array();
        aes.processBlock(block, 0, block, 0);
        return block;
    }
}
