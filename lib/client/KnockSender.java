import java.io.IOException;
import java.net.BindException;
import java.net.Inet4Address;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SocketChannel;
import java.security.SecureRandom;
import java.util.List;
import java.util.Optional;

/** Sends knocks, one SYN each: PROTOCOL.md 5. */
final class KnockSender {
    private static final String NAT64 = "64:ff9b::/96"; // RFC 6052

    /** Source addresses that somebody may well translate: all but global unicast (RFC 6890). */
    private static final List<String> TRANSLATED = List.of("0.0.0.0/8", "10.0.0.0/8",
            "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
            "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/3", "::/3", "2001:db8::/32", "3fff::/20", "4000::/2", "8000::/1");

    /** How a knock went: the connection has to come from {@code source}, and go to the target. */
    record Sent(InetAddress source, InetAddress target) {}

    private final Optional<RawSocket> raw4, raw6;

    private KnockSender(Optional<RawSocket> raw4, Optional<RawSocket> raw6) {
        this.raw4 = raw4;
        this.raw6 = raw6;
    }

    /**
     * Opens raw sockets, if a carrier needs them, and gives up the right to; without it, starts the
     * program again with it. The carrier {@code address} needs none, nor any privilege.
     */
    static KnockSender open(boolean raw) throws IOException {
        if (!raw) {
            NetRaw.doWithout();
            return new KnockSender(Optional.empty(), Optional.empty());
        }
        NetRaw.obtain();
        var raw4 = new RawSocket(4);
        var raw6 = new RawSocket(6);
        if (!raw4.isOpen() && !raw6.isOpen()) {
            throw new Failure("cannot open a raw socket (" + raw4.problem()
                    + "): does a container forbid it?");
        }
        NetRaw.giveUp();
        return new KnockSender(Optional.of(raw4), Optional.of(raw6));
    }

    /**
     * Sends one knock for {@code port} to the first of {@code addresses} that has a route, from the
     * address {@code from} of this host if one is given.
     */
    Sent knock(Credentials with, int port, List<InetAddress> addresses, Optional<InetAddress> from)
            throws IOException {
        var profile = with.profile();
        profile.checkOpens(port);
        boolean address = profile.carrier() == Carrier.ADDRESS;
        var noRoute = new Failure(address ? profile.name() + " has no IPv6 address of its own,"
                + " which the carrier address needs" : "no address of " + profile.name()
                + " is of that IP version");
        for (var target : addresses) {
            boolean fits = from.isEmpty() || from.get().getClass() == target.getClass();
            if (!fits || address && (target instanceof Inet4Address
                    || Addresses.isIn(NAT64, target))) {
                continue;
            }
            InetAddress source;
            try {
                source = source(target, port, from);
            } catch (Failure e) {
                noRoute = e;
                continue;
            }
            send(with, port, source, target);
            return new Sent(source, target);
        }
        throw noRoute;
    }

    /**
     * The address that a connection leaves from, which a datagram socket tells that is connected:
     * that sends nothing.
     */
    private static InetAddress source(InetAddress target, int port, Optional<InetAddress> from) {
        var family = target instanceof Inet6Address ? StandardProtocolFamily.INET6
                : StandardProtocolFamily.INET;
        try (var socket = DatagramChannel.open(family)) {
            if (from.isPresent()) {
                socket.bind(new InetSocketAddress(from.get(), 0));
            }
            socket.connect(new InetSocketAddress(target, port));
            return ((InetSocketAddress) socket.getLocalAddress()).getAddress();
        } catch (BindException e) {
            throw new Failure(from.get().getHostAddress() + " is no address of this host: 'ip"
                    + " address' lists them");
        } catch (IOException | UnsupportedOperationException e) { // the latter without any IPv6
            throw new Failure("no route to " + target.getHostAddress() + " (" + e.getMessage()
                    + "): is the network up?");
        }
    }

    /** The sender's steps of PROTOCOL.md 5. */
    private void send(Credentials with, int port, InetAddress source, InetAddress target)
            throws IOException {
        var profile = with.profile();
        var carrier = profile.carrier();
        var raw = carrier == Carrier.ADDRESS ? Optional.<RawSocket>empty()
                : Optional.of(rawSocket(target));
        var bound = carrier == Carrier.CLASSIC ? KnockCodec.UNBOUND
                : bound(profile.source(), source, target);

        // 1. Lock the counter.
        try (var counter = CounterLock.of(with.counter())) {
            int mtu = raw.isPresent() ? raw.get().connect(source, target) : 0;
            KnockCodec.Fields fields;
            do {
                // 2, 3. Take the next counter; the disk has it as used before it is.
                long number = counter.take();
                // 4. Seal. A kernel replaces an IPv4 ID of 0: then go on with the next counter.
                fields = with.codec().seal(port, number, carrier, bound);
            } while (fields.id() == 0 && raw.isPresent());

            // 5. Send one packet.
            if (raw.isPresent()) {
                raw.get().send(KnockPacket.make(source, target, profile.knockPort(), fields,
                        KnockPacket.shape(source, mtu), new SecureRandom().nextLong()));
            } else {
                begin(source, KnockCodec.address(target, fields), profile.knockPort());
            }
        }
    }

    private RawSocket rawSocket(InetAddress target) {
        var raw = target instanceof Inet6Address ? raw6 : raw4;
        if (raw.isEmpty()) {
            throw new Failure("no raw socket for " + target.getHostAddress() + ", as no profile"
                    + " needed one at the start: start the proxy again");
        }
        if (!raw.get().isOpen()) {
            throw new Failure("no raw socket for " + target.getHostAddress() + " ("
                    + raw.get().problem() + "): is its IP version switched off?");
        }
        return raw.get();
    }

    /**
     * Begins an ordinary connection, and gives it up at once: the kernel sends one SYN, all of it
     * its own, and would repeat it only after a second. Every program may do that.
     */
    private static void begin(InetAddress source, InetAddress knock, int knockPort)
            throws IOException {
        try (var socket = SocketChannel.open(StandardProtocolFamily.INET6)) {
            socket.configureBlocking(false);
            // A socket that is bound has another kind of source port than one that is not.
            if (!source(knock, knockPort, Optional.empty()).equals(source)) {
                socket.bind(new InetSocketAddress(source, 0));
            }
            socket.connect(new InetSocketAddress(knock, knockPort));
        }
    }

    /** The address to which a knock is bound, as it goes under the tag: 4 or 16 bytes, or none. */
    static byte[] bound(Profile.Source setting, InetAddress own, InetAddress target) {
        return switch (setting) {
            case Profile.Source.Rule.ANY -> KnockCodec.UNBOUND;
            case Profile.Source.Rule.BOUND -> own.getAddress();
            case Profile.Source.Rule.IF_PUBLIC ->
                TRANSLATED.stream().anyMatch(range -> Addresses.isIn(range, own))
                        || Addresses.isIn(NAT64, target) ? KnockCodec.UNBOUND : own.getAddress();
            case Profile.Source.Other(var other) when other.getClass() == own.getClass() ->
                other.getAddress();
            case Profile.Source.Other _ -> bound(Profile.Source.Rule.IF_PUBLIC, own, target);
        };
    }
}
