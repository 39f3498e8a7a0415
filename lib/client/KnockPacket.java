import java.io.FileInputStream;
import java.io.IOException;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.stream.Stream;

/**
 * The packet of a knock. What is not the knock in it is what this host's own kernel puts into the
 * SYN of a connect(2), made from the same settings: PROTOCOL.md 4.
 */
final class KnockPacket {
    private static final int IPPROTO_TCP = 6, TTL = 64, SYN = 2;
    /** Kind and length of TCP options (RFC 9293, 2018, 7323); no operation has no length. */
    private static final short OPTION_MSS = 0x0204, OPTION_SACK_PERMITTED = 0x0402;
    private static final short OPTION_TIMESTAMPS = 0x080A, OPTION_WINDOW_SCALE = 0x0303;
    private static final byte OPTION_NOP = 1;

    /**
     * What the kernel's settings make of its SYNs; {@code labelBit}: the flow label's top bit is 1.
     */
    record Shape(int mss, int window, int scale, int lowPort, int highPort, boolean labelBit) {}

    private KnockPacket() {}

    /**
     * What tcp_select_initial_window() (net/ipv4/tcp_output.c) makes of the same settings, and
     * ipv4_default_advmss() or ip6_default_advmss() of the MTU of the way from {@code source}.
     */
    static Shape shape(InetAddress source, int mtu) {
        boolean six = source instanceof Inet6Address;
        var rmem = setting("net/ipv4/tcp_rmem", 4096, 131072, 6291456);
        long initial = rmem[1] / 2;
        int mss = Math.clamp(mtu - (six ? 60 : 40), six ? 1220 : 256, 65495);
        int window = (int) Math.min(initial > mss ? initial / mss * mss : initial, 65535);
        long largest = Math.max(rmem[2], setting("net/core/rmem_max", 212992)[0]);
        int scale = Math.clamp(63 - Long.numberOfLeadingZeros(largest) - 15, 0, 14);
        var ports = setting("net/ipv4/ip_local_port_range", 32768, 60999);
        return new Shape(mss, window, scale, (int) ports[0], (int) ports[1],
                six && setting("net/ipv6/flowlabel_state_ranges", 0)[0] == 1);
    }

    /**
     * The numbers in a file below /proc/sys, which the kernel gives out in one read or not at all;
     * its defaults where there is none: before Linux 6.11 a network namespace has no rmem_max.
     */
    private static long[] setting(String name, long... defaults) {
        try (var file = new FileInputStream("/proc/sys/" + name)) {
            var text = new String(file.readAllBytes(), StandardCharsets.US_ASCII);
            return Stream.of(text.strip().split("\\s+")).mapToLong(Long::parseLong).toArray();
        } catch (IOException e) {
            return defaults;
        }
    }

    /**
     * A whole IP packet with a SYN; fields with a timestamp get the kernel's options, others none.
     * {@code random}: 64 bits for the source port and the top of the flow label.
     */
    static byte[] make(InetAddress source, InetAddress target, int knockPort,
            KnockCodec.Fields fields, Shape shape, long random) {
        boolean cover = fields.isCover();
        // connect(2) takes every other port of the range, and leaves the rest to bind(2)
        int count = Math.max(1, (shape.highPort - shape.lowPort + 1) / 2);
        int sourcePort = shape.lowPort + 2 * (int) ((random >>> 4) % count);

        var tcp = ByteBuffer.allocate(cover ? 40 : 20)
                .putShort((short) sourcePort).putShort((short) knockPort)
                .putInt((int) fields.seq()).putInt((int) fields.ack())
                .putShort((short) ((cover ? 10 : 5) << 12 | SYN)) // with the header's length
                .putShort((short) (cover ? shape.window : fields.window()))
                .putInt(0); // checksum, urgent pointer
        if (cover) {
            tcp.putShort(OPTION_MSS).putShort((short) shape.mss).putShort(OPTION_SACK_PERMITTED)
                    .putShort(OPTION_TIMESTAMPS).putInt((int) fields.tsval().getAsLong()).putInt(0)
                    .put(OPTION_NOP).putShort(OPTION_WINDOW_SCALE).put((byte) shape.scale);
        }
        tcp.putShort(16, checksum(source, target, tcp.array()));

        boolean six = target instanceof Inet6Address;
        var ip = ByteBuffer.allocate((six ? 40 : 20) + tcp.capacity());
        if (six) {
            int label = ((int) random & 15 | (shape.labelBit ? 8 : 0)) << 16 | fields.id();
            ip.putInt(6 << 28 | label) // version, traffic class 0, flow label
                    .putShort((short) tcp.capacity()).put((byte) IPPROTO_TCP).put((byte) TTL);
        } else {
            ip.putShort((short) 0x4500).putShort((short) ip.capacity())
                    .putShort((short) fields.id()).putShort((short) 0x4000) // do not fragment
                    .put((byte) TTL).put((byte) IPPROTO_TCP)
                    .putShort((short) 0); // the kernel fills in the checksum
        }
        return ip.put(source.getAddress()).put(target.getAddress()).put(tcp.array()).array();
    }

    /** The TCP checksum over pseudo-header and segment (RFC 9293, RFC 8200). */
    private static short checksum(InetAddress source, InetAddress target, byte[] segment) {
        var bytes = ByteBuffer.allocate(36 + segment.length).put(source.getAddress())
                .put(target.getAddress()).putShort((short) IPPROTO_TCP)
                .putShort((short) segment.length).put(segment).flip();
        int sum = 0;
        while (bytes.hasRemaining()) {
            sum += Short.toUnsignedInt(bytes.getShort());
        }
        while (sum >>> 16 != 0) {
            sum = (sum & 0xFFFF) + (sum >>> 16);
        }
        return (short) ~sum;
    }
}
