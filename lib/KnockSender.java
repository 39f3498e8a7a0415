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
import java.security.SecureRandom;
import java.util.List;
import java.util.Optional;
import java.util.random.RandomGenerator;
import java.util.stream.Stream;

/**
 * Sends knocks: one SYN each, built here and written to a raw socket. Everything in it that is not the knock is what this
 * host's own kernel puts into the SYN of a connect(2), taken from the same settings.
 */
final class KnockSender {
    private static final int IPPROTO_TCP = 6;
    private static final int TTL = 64;

    /** What the kernel's settings make of its SYNs: largest segment, window, window scale; and its ephemeral ports. */
    record Shape(int mss, int window, int scale, int lowPort, int highPort) {}

    private final RandomGenerator random = new SecureRandom();
    private final int socket4;
    private final int socket6;

    private KnockSender(int socket4, int socket6) {
        this.socket4 = socket4;
        this.socket6 = socket6;
    }

    /** Opens the raw sockets, the only thing that needs root; without it, starts the whole process again under sudo. */
    static KnockSender open() throws IOException {
        var sender = new KnockSender(Sys.rawSocket(Sys.AF_INET), Sys.rawSocket(Sys.AF_INET6));
        if (sender.socket4 < 0 && sender.socket6 < 0) {
            throw Sys.isRoot() ? new Cli.Failure("cannot open a raw socket: this container or kernel forbids it")
                    : Sys.execSudo("opening a raw socket");
        }
        DatagramChannel.open().close(); // loads what it needs of a JDK that may be out of reach without root
        return sender;
    }

    /**
     * Uses a counter of {@code profile} up and sends one knock for {@code port} to the first of {@code addresses} that has a
     * route; returns that address. The counter is on the disk before the packet leaves.
     */
    InetAddress knock(Profile profile, int port, KnockCodec.Carrier carrier, List<InetAddress> addresses)
            throws IOException {
        for (var target : addresses) {
            var source = sourceFor(target);
            if (source.isEmpty()) {
                continue;
            }
            int socket = target instanceof Inet6Address ? socket6 : socket4;
            if (socket < 0) {
                throw new IOException("no raw socket for " + target.getHostAddress() + ": is its IP version switched off?");
            }
            var shape = shape(source.get());
            profile.counter().take(counter -> {
                var sealed = profile.codec().seal(port, counter);
                if (sealed[0] == 0 && sealed[1] == 0) {
                    return false; // the kernel would replace an IPv4 ID of 0
                }
                var fields = KnockCodec.fields(sealed, carrier);
                Sys.send(socket, packet(source.get(), target, profile.config().knockPort(), fields, shape, random), target);
                return true;
            });
            return target;
        }
        throw new Cli.Failure("no route to " + profile.name() + ": is the network up?");
    }

    /** The address that this host's connections to {@code target} leave from; empty without a route. Sends nothing. */
    private static Optional<InetAddress> sourceFor(InetAddress target) throws IOException {
        var family = target instanceof Inet6Address ? StandardProtocolFamily.INET6 : StandardProtocolFamily.INET;
        try (var probe = DatagramChannel.open(family)) {
            probe.connect(new InetSocketAddress(target, 9));
            return Optional.of(((InetSocketAddress) probe.getLocalAddress()).getAddress());
        } catch (SocketException | UnsupportedOperationException e) {
            return Optional.empty();
        }
    }

    /** What tcp_select_initial_window() in the kernel's net/ipv4/tcp_output.c makes of the same settings. */
    private static Shape shape(InetAddress source) throws IOException {
        int mtu = NetworkInterface.getByInetAddress(source).getMTU();
        var rmem = setting("net/ipv4/tcp_rmem");
        long initial = rmem[1] / 2;
        int mss = (int) Math.min(mtu - (source instanceof Inet6Address ? 60 : 40), 65495);
        int window = (int) Math.min(initial > mss ? initial / mss * mss : initial, 65535);
        long largest = Math.max(rmem[2], setting("net/core/rmem_max")[0]);
        int scale = Math.clamp(63 - Long.numberOfLeadingZeros(largest) - 15, 0, 14);
        var ports = setting("net/ipv4/ip_local_port_range");
        return new Shape(mss, window, scale, (int) ports[0], (int) ports[1]);
    }

    /** The numbers in a file below /proc/sys, which the kernel gives out in one read or not at all. */
    private static long[] setting(String name) throws IOException {
        try (var file = new FileInputStream("/proc/sys/" + name)) {
            var text = new String(file.readAllBytes(), StandardCharsets.US_ASCII);
            return Stream.of(text.strip().split("\\s+")).mapToLong(Long::parseLong).toArray();
        }
    }

    /** A whole IPv4 or IPv6 packet with a SYN; fields with a timestamp get the kernel's options, others none. */
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
            ip.putInt(6 << 28 | random.nextInt(16) << 16 | fields.id()) // version, traffic class 0, flow label
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
