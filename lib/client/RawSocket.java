import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * A socket to which whole IP packets of one version are written (raw(7)); for one thread at a time,
 * which {@code CounterLock} sees to.
 */
final class RawSocket {
    private static final int AF_INET = 2, AF_INET6 = 10;
    private static final int SOCK_RAW = 3, IPPROTO_RAW = 255;
    private static final int IPPROTO_IP = 0, IP_MTU = 14, IPPROTO_IPV6 = 41, IPV6_MTU = 24;

    private final boolean six;
    private final long socket; // or -errno

    RawSocket(int version) {
        six = version == 6;
        socket = Libc.call("socket", six ? AF_INET6 : AF_INET, SOCK_RAW, IPPROTO_RAW);
    }

    boolean isOpen() {
        return socket >= 0;
    }

    /** Why it is not open. */
    String problem() {
        return Libc.errno(-socket);
    }

    /**
     * What is sent from now on leaves where packets from {@code source} to {@code target} leave, as
     * the kernel does not look into their headers for that; returns how large they may be.
     */
    int connect(InetAddress source, InetAddress target) throws IOException {
        try (var arena = Arena.ofConfined()) {
            var none = arena.allocateFrom(ValueLayout.JAVA_SHORT, new short[14]); // AF_UNSPEC
            Libc.must("connect", socket, none.address(), none.byteSize());
            if (!(source instanceof Inet6Address v6 && v6.isLinkLocalAddress()
                    && v6.getScopeId() == 0)) { // which cannot be bound to
                var own = sockaddr(arena, source);
                Libc.must("bind", socket, own.address(), own.byteSize());
            }
            var peer = sockaddr(arena, target);
            Libc.must("connect", socket, peer.address(), peer.byteSize());
            var mtu = arena.allocate(ValueLayout.JAVA_INT);
            var size = arena.allocateFrom(ValueLayout.JAVA_INT, 4);
            Libc.must("getsockopt", socket, six ? IPPROTO_IPV6 : IPPROTO_IP,
                    six ? IPV6_MTU : IP_MTU, mtu.address(), size.address());
            return mtu.get(ValueLayout.JAVA_INT, 0);
        }
    }

    /** Sends one whole packet to where it is connected. */
    void send(byte[] packet) throws IOException {
        try (var arena = Arena.ofConfined()) {
            var data = arena.allocateFrom(ValueLayout.JAVA_BYTE, packet);
            long sent = Libc.call("send", socket, data.address(), packet.length, 0);
            if (sent != packet.length) {
                throw new IOException("the kernel did not send the packet (" + Libc.errno(-sent)
                        + "): does a firewall on this host let it out?");
            }
        }
    }

    /** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)) with port 0. */
    private static MemorySegment sockaddr(Arena arena, InetAddress address) {
        boolean six = address instanceof Inet6Address;
        var bytes = ByteBuffer.allocate(six ? 28 : 16).order(ByteOrder.nativeOrder())
                .putShort((short) (six ? AF_INET6 : AF_INET))
                .put(six ? 8 : 4, address.getAddress());
        if (address instanceof Inet6Address v6) {
            bytes.putInt(24, v6.getScopeId());
        }
        return arena.allocateFrom(ValueLayout.JAVA_BYTE, bytes.array());
    }
}
