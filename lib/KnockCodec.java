//DEPS org.bouncycastle:bcprov-jdk18on:1.87

import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.BitSet;
import java.util.HexFormat;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import org.bouncycastle.crypto.BlockCipher;
import org.bouncycastle.crypto.digests.SHA1Digest;
import org.bouncycastle.crypto.engines.AESEngine;
import org.bouncycastle.crypto.macs.HMac;
import org.bouncycastle.crypto.params.KeyParameter;
import org.bouncycastle.util.Arrays;

/**
 * Seals a port number into 12 bytes, opens them again, and knows where they travel: in which fields of a SYN, and where
 * those stand in a line of the kernel's firewall log. PROTOCOL.md is this file in prose. Bytes and numbers in, a value or
 * a refusal out: no file, no clock, no randomness. Holds keys; not for two threads at once.
 */
final class KnockCodec {
    static final int KEY_LENGTH = 16;
    static final long LAST_COUNTER = 0xFFFF_FFFFL;
    private static final int SEALED_LENGTH = 12;
    private static final int TAG_LENGTH = 10;

    /** How a SYN carries the sealed bytes: looking like the kernel's own SYN, or as the original knockknock does. */
    enum Carrier { COVER, CLASSIC }

    /** What a knock asks for, and the counter that it used up. */
    record Request(int port, long counter) {}

    /** The header fields that may carry a knock, unsigned; {@code id} is IPv4's ID or the flow label's low 16 bits. */
    record Fields(int id, long seq, long ack, int window, OptionalLong tsval) {}

    /** A SYN to a knock port, as the kernel logged it. */
    record Syn(InetAddress source, int knockPort, Fields fields) {}

    private final BlockCipher aes = AESEngine.newInstance();
    private final HMac hmac = new HMac(new SHA1Digest());
    private final byte[] block = new byte[16];
    private final byte[] pad = new byte[16];
    private final byte[] tag = new byte[20];

    /** Two keys of {@link #KEY_LENGTH} bytes each. */
    KnockCodec(byte[] cipherKey, byte[] macKey) {
        if (cipherKey.length != KEY_LENGTH || macKey.length != KEY_LENGTH) {
            throw new IllegalArgumentException("a key is " + KEY_LENGTH + " bytes");
        }
        aes.init(true, new KeyParameter(cipherKey));
        hmac.init(new KeyParameter(macKey));
    }

    /** Seals {@code port} under a counter that must never be used again: 12 bytes. */
    byte[] seal(int port, long counter) {
        computeTag(port);
        computePad(counter);
        var sealed = ByteBuffer.allocate(SEALED_LENGTH).putShort((short) port).put(tag, 0, TAG_LENGTH).array();
        for (int i = 0; i < sealed.length; i++) {
            sealed[i] ^= pad[i];
        }
        return sealed;
    }

    /** Opens 10 or 12 carried bytes with the first counter of next .. next + window - 1 under which the tag is right. */
    Optional<Request> open(byte[] carried, long next, int window) {
        var plain = new byte[carried.length];
        long end = Math.min(next + window - 1, LAST_COUNTER);
        for (long counter = next; counter <= end; counter++) {
            computePad(counter);
            for (int i = 0; i < plain.length; i++) {
                plain[i] = (byte) (carried[i] ^ pad[i]);
            }
            int port = (plain[0] & 0xFF) << 8 | plain[1] & 0xFF;
            computeTag(port);
            // All carried bytes behind the port are tag, compared in constant time.
            if (Arrays.constantTimeAreEqual(plain.length - 2, plain, 2, tag, 0)) {
                return port == 0 ? Optional.empty() : Optional.of(new Request(port, counter));
            }
        }
        return Optional.empty();
    }

    /** tag = HMAC-SHA1(mac.key, port as 2 bytes, big-endian), of which the first 10 bytes count. */
    private void computeTag(int port) {
        hmac.update((byte) (port >> 8));
        hmac.update((byte) port);
        hmac.doFinal(tag, 0);
    }

    /** pad = AES-128(cipher.key, 12 zero bytes || counter as 4 bytes, big-endian), of which the first 12 bytes count. */
    private void computePad(long counter) {
        aes.processBlock(ByteBuffer.wrap(block).putInt(12, (int) counter).array(), 0, pad, 0);
    }

    /** Lays sealed bytes out over header fields; a {@code cover} leaves the window to the sender's kernel parameters. */
    static Fields fields(byte[] sealed, Carrier carrier) {
        var in = ByteBuffer.wrap(sealed);
        int id = Short.toUnsignedInt(in.getShort());
        long seq = Integer.toUnsignedLong(in.getInt());
        long third = Integer.toUnsignedLong(in.getInt());
        return switch (carrier) {
            case COVER -> new Fields(id, seq, 0, 0, OptionalLong.of(third));
            case CLASSIC -> new Fields(id, seq, third, Short.toUnsignedInt(in.getShort()), OptionalLong.empty());
        };
    }

    /** Gathers the carried bytes again: 10 from a cover (no ACK number, a timestamp), 12 from anything else. */
    static byte[] carried(Fields f) {
        boolean cover = f.ack == 0 && f.tsval.isPresent();
        var out = ByteBuffer.allocate(cover ? 10 : 12).putShort((short) f.id).putInt((int) f.seq);
        return (cover ? out.putInt((int) f.tsval.getAsLong()) : out.putInt((int) f.ack).putShort((short) f.window)).array();
    }

    /**
     * A whole line that the kernel's LOG target writes for a SYN (net/netfilter/nf_log_syslog.c): every key once and in its
     * place, no flag but SYN, nothing cut off. What a log daemon puts in front of it has no '=' in it.
     */
    private static final Pattern LINE = Pattern.compile("[^=]*IN=\\S*+ OUT=\\S*+ (?:(?!SRC=)[A-Z]++=\\S*+ )*+"
            + "SRC=(?<source>[0-9a-f.:]++) DST=[0-9a-f.:]++ LEN=\\d++ "
            + "(?:TOS=\\w++ PREC=\\w++ TTL=\\d++ ID=(?<id>\\d++) (?:CE )?+(?:DF )?+(?:MF )?+"
            + "|TC=\\d++ HOPLIMIT=\\d++ FLOWLBL=(?<label>\\d++) )"
            + "(?:OPT \\([0-9A-F ]*+\\) )*+"
            + "PROTO=TCP SPT=(?<spt>\\d++) DPT=(?<dpt>\\d++) SEQ=(?<seq>\\d++) ACK=(?<ack>\\d++) WINDOW=(?<window>\\d++) "
            + "RES=0x\\w\\w SYN URGP=(?<urgp>\\d++)"
            + "(?: OPT \\((?<options>(?:[0-9A-F]{2})++)\\))?+(?: MARK=\\w++)?+ ?+");
    private static final byte[] DPT = " DPT=".getBytes(StandardCharsets.US_ASCII);

    /**
     * Reads one line of the kernel log, text[from..to): the SYN to one of {@code knockPorts} that it tells of, or empty.
     * Nearly every line of a busy log ends at the first look, which makes no garbage.
     */
    static Optional<Syn> parse(byte[] text, int from, int to, BitSet knockPorts) {
        if (!knockPorts.get(firstPort(text, from, to))) {
            return Optional.empty();
        }
        Matcher line = LINE.matcher(new String(text, from, to - from, StandardCharsets.ISO_8859_1));
        if (!line.matches()) {
            return Optional.empty();
        }
        try {
            boolean four = line.group("id") != null;
            number(line, "spt", 0xFFFF);
            number(line, "urgp", 0xFFFF);
            return Optional.of(new Syn(InetAddress.ofLiteral(line.group("source")), (int) number(line, "dpt", 0xFFFF),
                    new Fields((int) (four ? number(line, "id", 0xFFFF) : number(line, "label", 0xFFFFF) & 0xFFFF),
                            number(line, "seq", 0xFFFF_FFFFL), number(line, "ack", 0xFFFF_FFFFL),
                            (int) number(line, "window", 0xFFFF), tsval(line.group("options")))));
        } catch (IllegalArgumentException e) {
            return Optional.empty(); // an address or a number that no packet has
        }
    }

    /** The number behind the first DPT=, or 0, which is no knock port. */
    private static int firstPort(byte[] text, int from, int to) {
        for (int at = from; at <= to - DPT.length; at++) {
            if (text[at] == ' ' && java.util.Arrays.equals(text, at, at + DPT.length, DPT, 0, DPT.length)) {
                int port = 0;
                for (int i = at + DPT.length; i < to && text[i] >= '0' && text[i] <= '9' && port <= 0xFFFF; i++) {
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

    /** The timestamp option's first half (RFC 7323), from TCP options in hexadecimal; empty if there is none. */
    private static OptionalLong tsval(String hex) {
        var options = ByteBuffer.wrap(hex == null ? new byte[0] : HexFormat.of().parseHex(hex));
        while (options.remaining() >= 2) {
            int kind = options.get();
            if (kind == 1) {
                continue;
            }
            int length = options.get() - 2;
            if (kind == 8 && length == 8 && options.remaining() >= length) {
                return OptionalLong.of(Integer.toUnsignedLong(options.getInt()));
            }
            if (kind == 0 || length < 0 || length > options.remaining()) {
                break;
            }
            options.position(options.position() + length);
        }
        return OptionalLong.empty();
    }
}
