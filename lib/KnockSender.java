import java.io.FileInputStream;
import java.io.IOException;
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
import java.security.SecureRandom;
import java.util.List;
import java.util.Optional;
import java.util.random.RandomGenerator;
import java.util.stream.Stream;

/**
 * Sends knocks: one SYN each, built here and written to a raw socket. What is not the knock in it
 * is what this host's own kernel puts into the SYN of a connect(2), taken from the same settings.
 * PROTOCOL.md 4 and 5.
 */
final class KnockSender {
    private static final int IPPROTO_TCP = 6, TTL = 64, CAP_NET_RAW = 13;
    private static final byte[] UNBOUND = {};

    /**
     * What the kernel's settings make of its SYNs: largest segment, window, window scale, ports,
     * flow label's top bit.
     */
    record Shape(int mss, int window, int scale, int lowPort, int highPort, boolean labelBit) {}

    private final RandomGenerator random = new SecureRandom();
    private final int socket4, socket6;

    private KnockSender(int socket4, int socket6) {
        this.socket4 = socket4;
        this.socket6 = socket6;
    }

    /**
     * Opens raw sockets and gives up what it took to open them; without that, starts the whole
     * program again with it.
     */
    static KnockSender open() throws IOException {
        if (Sys.uid() == 0 && capabilities() != 1L << CAP_NET_RAW) {
            throw Sudo.withNetRaw();
        }
        var sender = new KnockSender(Sys.rawSocket(Sys.AF_INET), Sys.rawSocket(Sys.AF_INET6));
        if (sender.socket4 < 0 && sender.socket6 < 0) {
            throw (capabilities() >> CAP_NET_RAW & 1) == 0 ? Sudo.withNetRaw()
                    : new Failure("cannot open a raw socket: this container or kernel forbids it");
        }
        Sys.forbidTracing();
        Sys.dropCapabilities();
        return sender;
    }

    /** This process's effective capabilities (proc_pid_status(5)). */
    private static long capabilities() throws IOException {
        return Files.readAllLines(Path.of("/proc/self/status")).stream().filter(line -> line.startsWith("CapEff:"))
                .mapToLong(line -> Long.parseUnsignedLong(line.substring(7).strip(), 16)).findFirst().orElse(0);
    }

    /**
     * Sends one knock for {@code port} to the first of {@code addresses} that has a route; returns
     * that address. {@code boundTo} is "any", "bound", an address, or "", as in a profile's config.
     */
    InetAddress knock(Profile profile, int port, KnockCodec.Carrier carrier, String boundTo, List<InetAddress> addresses)
            throws IOException {
        for (var target : addresses) {
            var own = sourceFor(target);
            if (own.isEmpty()) {
                continue;
            }
            int socket = target instanceof Inet6Address ? socket6 : socket4;
            if (socket < 0) {
                throw new Failure("no raw socket for " + target.getHostAddress() + ": is its IP version switched off?");
            }
            var shape = shape(own.get());
            var bound = carrier == KnockCodec.Carrier.CLASSIC ? UNBOUND : bound(boundTo, own.get(), target);
            // 1. Lock the counter.
            try (var counter = profile.counter().lock()) {
                KnockCodec.Fields fields;
                do {
                    // 2, 3. Take the next counter, which is on the disk before it is used.
                    // 4. Seal. The kernel would replace an IPv4 ID of 0, so such a counter is passed over.
                    fields = profile.codec().seal(port, counter.take(), carrier, bound);
                } while (fields.id() == 0);
                // 5. Send one packet.
                Sys.send(socket, packet(own.get(), target, profile.settings().knockPort(), fields, shape, random), target);
            }
            return target;
        }
        throw new Failure("no route to " + profile.name() + ": is the network up?");
    }

    /**
     * The address that this host's connections to {@code target} leave from; empty without a route.
     * Sends nothing.
     */
    private static Optional<InetAddress> sourceFor(InetAddress target) throws IOException {
        var family = target instanceof Inet6Address ? StandardProtocolFamily.INET6 : StandardProtocolFamily.INET;
        try (var probe = DatagramChannel.open(family)) {
            probe.connect(new InetSocketAddress(target, 9));
            return Optional.of(((InetSocketAddress) probe.getLocalAddress()).getAddress());
        } catch (SocketException | UnsupportedOperationException e) {
            return Optional.empty();
        }
    }

    /**
     * The address that alone may use a knock from {@code own}, as the bytes under the tag; none
     * where it is unbound.
     */
    static byte[] bound(String boundTo, InetAddress own, InetAddress target) {
        return switch (boundTo) {
            case "any" -> UNBOUND;
            case "bound" -> own.getAddress();
            case "" -> isTranslated(own, target) ? UNBOUND : own.getAddress();
            default -> {
                var given = InetAddress.ofLiteral(boundTo).getAddress();
                yield given.length == own.getAddress().length ? given : bound("", own, target);
            }
        };
    }

    /**
     * Whether somebody on the way may well put another source address into packets: all but global
     * unicast (RFC 6890).
     */
    private static boolean isTranslated(InetAddress own, InetAddress target) {
        var a = own.getAddress();
        int first = Byte.toUnsignedInt(a[0]), second = Byte.toUnsignedInt(a[1]);
        int third = Byte.toUnsignedInt(a[2]);
        if (own instanceof Inet6Address) {
            boolean documentation = first == 0x20 && second == 0x01 && third == 0x0d && (a[3] & 0xFF) == 0xb8
                    || first == 0x3f && second == 0xff && third < 0x10;
            boolean nat64 = target.getHostAddress().startsWith("64:ff9b:"); // RFC 6052
            return first >> 5 != 1 || documentation || nat64;
        }
        return switch (first) {
            case 0, 10, 127 -> true;
            case 100 -> second >> 6 == 1; // shared, carriers' NAT
            case 169 -> second == 254;
            case 172 -> second >> 4 == 1;
            case 192 -> second == 168 || second == 0 && (third == 0 || third == 2);
            case 198 -> second >> 1 == 9 || second == 51 && third == 100;
            case 203 -> second == 0 && third == 113;
            default -> first >= 224;
        };
    }

    /**
     * What tcp_select_initial_window() in the kernel's net/ipv4/tcp_output.c makes of the same
     * settings.
     */
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
     * A whole IPv4 or IPv6 packet with a SYN; fields with a timestamp get the kernel's options,
     * others none.
     */
    static byte[] packet(InetAddress source, InetAddress target, int port, KnockCodec.Fields fields, Shape shape,
            RandomGenerator random) {
        boolean cover = fields.tsval().isPresent();
        // connect(2) takes every other port of the range, and leaves the rest to bind(2)
        int sourcePort = shape.lowPort + 2 * random.nextInt((shape.highPort - shape.lowPort + 1) / 2);
        var tcp = ByteBuffer.allocate(cover ? 40 : 20)
                .putShort((short) sourcePort).putShort((short) port)
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
            int label = (random.nextInt(16) | (shape.labelBit ? 8 : 0)) << 16 | fields.id();
            ip.putInt(6 << 28 | label) // version, traffic class 0, flow label
                    .putShort((short) tcp.capacity()).put((byte) IPPROTO_TCP).put((byte) TTL);
        } else {
            ip.putShort((short) 0x4500).putShort((short) ip.capacity()).putShort((short) fields.id())
                    .putShort((short) 0x4000) // do not fragment
                    .put((byte) TTL).put((byte) IPPROTO_TCP).putShort((short) 0); // the kernel fills this checksum in
        }
        return ip.put(source.getAddress()).put(target.getAddress()).put(tcp.array()).array();
    }

    /** The TCP checksum over pseudo-header and segment (RFC 9293, RFC 8200). */
    private static short checksum(InetAddress source, InetAddress target, byte[] segment) {
        var bytes = ByteBuffer.allocate(32 + 4 + segment.length).put(source.getAddress()).put(target.getAddress())
                .putShort((short) IPPROTO_TCP).putShort((short) segment.length).put(segment).flip();
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
