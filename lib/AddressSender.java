import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SocketChannel;
import java.util.Optional;

/**
 * Sends a knock as an address (PROTOCOL.md 4): begins an ordinary connection and gives it up at
 * once. Every program may do that: it takes no privilege and no system call that Java lacks.
 */
final class AddressSender {
    private AddressSender() {}

    /**
     * The address that a connection to {@code server} leaves from, from a datagram socket that is
     * connected, which sends nothing. The kernel knows how large its packets may be.
     */
    static Route route(InetAddress server, int port, Optional<InetAddress> from) {
        try (var socket = DatagramChannel.open(StandardProtocolFamily.INET6)) {
            if (from.isPresent()) {
                socket.bind(new InetSocketAddress(from.get(), 0));
            }
            socket.connect(new InetSocketAddress(server, port));
            var own = (InetSocketAddress) socket.getLocalAddress();
            return new Route(own.getAddress(), 0);
        } catch (IOException | UnsupportedOperationException e) { // the latter without any IPv6
            throw new Failure("no route to " + server.getHostAddress() + from.map(own -> " from "
                    + own.getHostAddress()).orElse("") + " (" + e.getMessage()
                    + "): is the network up?");
        }
    }

    /** Has the kernel send one SYN, all of it its own; it would repeat it after a second. */
    static void send(InetAddress source, InetAddress knock, int knockPort) throws IOException {
        try (var socket = SocketChannel.open(StandardProtocolFamily.INET6)) {
            socket.configureBlocking(false);
            // A socket that is bound has another kind of source port than one that is not.
            if (!route(knock, knockPort, Optional.empty()).source().equals(source)) {
                socket.bind(new InetSocketAddress(source, 0));
            }
            socket.connect(new InetSocketAddress(knock, knockPort));
        }
    }
}
