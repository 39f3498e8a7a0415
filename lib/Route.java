import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Optional;

/**
 * How the kernel would send a packet: from which address, and how large it may be. Found with a
 * datagram socket that is connected (ip(7), ipv6(7)), which sends nothing.
 */
record Route(InetAddress source, int mtu) {
    private static final int SOCK_DGRAM = 2;
    private static final int IPPROTO_IP = 0, IP_MTU = 14, IPPROTO_IPV6 = 41, IPV6_MTU = 24;

    /** The route to a port, from the address {@code from} if one is given. */
    static Route find(InetAddress target, int port, Optional<InetAddress> from) {
        boolean six = target instanceof Inet6Address;
        long socket = Sys.must("socket", six ? Sys.AF_INET6 : Sys.AF_INET, SOCK_DGRAM, 0);
        try (var arena = Arena.ofConfined()) {
            if (from.isPresent()) {
                var own = Sys.sockaddr(arena, from.get(), 0);
                long bound = Libc.call("bind", socket, own.address(), own.byteSize());
                if (bound < 0) {
                    throw new Failure(from.get().getHostAddress() + " is no address of this host ("
                            + Sys.errno(-bound) + "): 'ip address' lists them");
                }
            }
            var to = Sys.sockaddr(arena, target, port);
            long connected = Libc.call("connect", socket, to.address(), to.byteSize());
            if (connected < 0) {
                throw new Failure("no route to " + target.getHostAddress() + " ("
                        + Sys.errno(-connected) + "): is the network up?");
            }
            var own = arena.allocate(28, 4); // struct sockaddr_in6
            var size = arena.allocateFrom(ValueLayout.JAVA_INT, 28);
            Sys.must("getsockname", socket, own.address(), size.address());
            var bytes = own.asSlice(six ? 8 : 4, six ? 16 : 4).toArray(ValueLayout.JAVA_BYTE);
            int scope = own.get(ValueLayout.JAVA_INT, 24);
            var source = six && scope > 0 ? Inet6Address.getByAddress(null, bytes, scope)
                    : InetAddress.getByAddress(bytes);
            var mtu = arena.allocate(ValueLayout.JAVA_INT);
            Sys.must("getsockopt", socket, six ? IPPROTO_IPV6 : IPPROTO_IP,
                    six ? IPV6_MTU : IP_MTU, mtu.address(),
                    arena.allocateFrom(ValueLayout.JAVA_INT, 4).address());
            return new Route(source, mtu.get(ValueLayout.JAVA_INT, 0));
        } catch (UnknownHostException e) {
            throw new IllegalStateException(e); // an address of 4 or 16 bytes is one
        } finally {
            Sys.must("close", socket);
        }
    }
}
