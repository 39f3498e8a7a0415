import java.io.FileInputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.SocketException;
import java.net.StandardProtocolFamily;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * Sends knocks: one SYN each, built here and written to a raw socket. What is not the knock in it
 * is what this host's own kernel puts into the SYN of a connect(2), taken from the same settings.
 * PROTOCOL.md 4 and 5.
 */
final class KnockSender {
    private static final int IPPROTO_TCP = 6, TTL = 64, CAP_NET_RAW = 13;

    /** Source addresses that somebody may well translate: all but global unicast (RFC 6890). */
    private static final List<String> TRANSLATED = List.of("0.0.0.0/8", "10.0.0.0/8",
            "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
            "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/3", "::/3", "2001:db8::/32", "3fff::/20", "4000::/2", "8000::/1");

    /**
     * What the kernel's settings make of its SYNs; {@code labelBit}: the flow label's top bit is 1.
     */
    record Shape(int mss, int window, int scale, int lowPort, int highPort, boolean labelBit) {}

    private final int socket4, socket6;

    private KnockSender(int socket4, int socket6) {
        this.socket4 = socket4;
        this.socket6 = socket6;
    }

    /**
     * Opens raw sockets and gives up the right to; without it, starts the program again with it.
     */
    static KnockSender open() throws IOException {
        boolean permitted = (capabilities() >> CAP_NET_RAW & 1) == 1;
        if (!permitted || Sys.uid() == 0 && capabilities() != 1L << CAP_NET_RAW) {
            throw Sudo.withNetRaw();
        }
        var sender = new KnockSender(Sys.rawSocket(Sys.AF_INET), Sys.rawSocket(Sys.AF_INET6));
        if (sender.socket4 < 0 && sender.socket6 < 0) {
            throw new Failure("cannot open a raw socket: does a container forbid it?");
        }
        Sys.forbidTracing();
        Sys.dropCapabilities();
        return sender;
    }

    /** The effective capabilities of this process, a bit for each (proc_pid_status(5)). */
    private static long capabilities() throws IOException {
        var line = Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(status -> status.startsWith("CapEff:")).findFirst().orElseThrow();
        return Long.parseUnsignedLong(line.substring(7).strip(), 16);
    }

    /**
     * Sends one knock for {@code port} to the first of {@code addresses} that has a route; returns
     * that address. {@code boundTo} is "any", "bound", an address, or "", as in a profile's config.
     */
    InetAddress knock(Profile profile, int port, KnockCodec.Carrier carrier, String boundTo,
            List<InetAddress> addresses) throws IOException {
        for (var target : addresses) {
            var own = sourceFor(target);
            if (own.isPresent()) {
                send(profile, port, carrier, boundTo, own.get(), target);
                return target;
            }
        }
        throw new Failure("no route to " + profile.name() + ": is the network up?");
    }

    /** The sender's steps of PROTOCOL.md 5. */
    private void send(Profile profile, int port, KnockCodec.Carrier carrier, String boundTo,
            InetAddress own, InetAddress target) throws IOException {
        int socket = target instanceof Inet6Address ? socket6 : socket4;
        if (socket < 0) {
            throw new Failure("no raw socket for " + target.getHostAddress()
                    + ": is its IP version switched off?");
        }
        var shape = shape(own);
        var bound = carrier == KnockCodec.Carrier.CLASSIC ? KnockCodec.UNBOUND
                : bound(boundTo, own, target);
        // 1. Lock the counter.
        try (var counter = profile.counter().lock()) {
            KnockCodec.Fields fields;
            do {
                // 2, 3. Take the next counter; the disk has it as used before it is.
                long number = counter.take();
                // 4. Seal. A kernel replaces an IPv4 ID of 0: then go on with the next counter.
                fields = profile.codec().seal(port, number, carrier, bound);
            } while (fields.id() == 0);
            // 5. Send one packet.
            int knockPort = profile.config().knockPort();
            Sys.send(socket, packet(own, target, knockPort, fields, shape, Sys.random()), target);
        }
    }

    /** The address that connections to {@code target} leave from; none without a route. */
    private static Optional<InetAddress> sourceFor(InetAddress target) throws IOException {
        boolean six = target instanceof Inet6Address;
        try (var probe = DatagramChannel.open( // sends nothing
                six ? StandardProtocolFamily.INET6 : StandardProtocolFamily.INET)) {
            probe.connect(new InetSocketAddress(target, 9));
            return Optional.of(((InetSocketAddress) probe.getLocalAddress()).getAddress());
        } catch (SocketException | UnsupportedOperationException e) {
            return Optional.empty();
        }
    }

    /** The address to which a knock is bound, as it goes under the tag: 4 or 16 bytes, or none. */
    static byte[] bound(String boundTo, InetAddress own, InetAddress target) {
        return switch (boundTo) {
            case "any" -> KnockCodec.UNBOUND;
            case "bound" -> own.getAddress();
            case "" -> TRANSLATED.stream().anyMatch(range -> isIn(range, own))
                    || isIn("64:ff9b::/96", target) ? KnockCodec.UNBOUND // NAT64 (RFC 6052)
                    : own.getAddress();
            default -> {
                var given = InetAddress.ofLiteral(boundTo).getAddress();
                yield given.length == own.getAddress().length ? given : bound("", own, target);
            }
        };
    }

    private static boolean isIn(String range, InetAddress address) {
        var prefix = InetAddress.ofLiteral(range.split("/")[0]).getAddress();
        int rest = prefix.length * 8 - Integer.parseInt(range.split("/")[1]);
        return prefix.length == address.getAddress().length && new BigInteger(1, prefix)
                .xor(new BigInteger(1, address.getAddress())).shiftRight(rest).signum() == 0;
    }

    /** What tcp_select_initial_window() (net/ipv4/tcp_output.c) makes of the same settings. */
    private static Shape shape(InetAddress source) throws IOException {
        boolean six = source instanceof Inet6Address;
        int mtu = NetworkInterface.getByInetAddress(source).getMTU();
        var rmem = setting("net/ipv4/tcp_rmem");
        long initial = rmem[1] / 2;
        int mss = (int) Math.min(mtu - (six ? 60 : 40), 65495);
        int window = (int) Math.min(initial > mss ? initial / mss * mss : initial, 65535);
        long largest = Math.max(rmem[2], setting("net/core/rmem_max")[0]);
        int scale = Math.clamp(63 - Long.numberOfLeadingZeros(largest) - 15, 0, 14);
        var ports = setting("net/ipv4/ip_local_port_range");
        return new Shape(mss, window, scale, (int) ports[0], (int) ports[1],
                six && setting("net/ipv6/flowlabel_state_ranges")[0] == 1);
    }

    /**
     * The numbers in a file below /proc/sys, which the kernel gives out in one read or not at all.
     */
    private static long[] setting(String name) throws IOException {
        try (var file = new FileInputStream("/proc/sys/" + name)) {
            var text = new String(file.readAllBytes(), StandardCharsets.US_ASCII);
            return Stream.of(text.strip().split("\\s+")).mapToLong(Long::parseLong).toArray();
        }
    }

    /**
     * A whole IP packet with a SYN; fields with a timestamp get the kernel's options, others none.
     * {@code random}: 64 bits for the source port and the top of the flow label.
     */
    static byte[] packet(InetAddress source, InetAddress target, int knockPort,
            KnockCodec.Fields fields, Shape shape, long random) {
        boolean cover = fields.tsval().isPresent();
        // connect(2) takes every other port of the range, and leaves the rest to bind(2)
        int count = Math.max(1, (shape.highPort - shape.lowPort + 1) / 2);
        int sourcePort = shape.lowPort + 2 * (int) ((random >>> 4) % count);
        var tcp = ByteBuffer.allocate(cover ? 40 : 20)
                .putShort((short) sourcePort).putShort((short) knockPort)
                .putInt((int) fields.seq()).putInt((int) fields.ack())
                .putShort((short) (cover ? 0xA002 : 0x5002)) // data offset, SYN
                .putShort((short) (cover ? shape.window : fields.window()))
                .putInt(0); // checksum, urgent pointer
        if (cover) {
            tcp.putShort((short) 0x0204).putShort((short) shape.mss)
                    .putShort((short) 0x0402)
                    .putShort((short) 0x080A).putInt((int) fields.tsval().getAsLong()).putInt(0)
                    .put((byte) 1)
                    .putShort((short) 0x0303).put((byte) shape.scale);
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
