import java.io.IOException;
import java.math.BigInteger;
import java.net.Inet4Address;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/** Sends knocks: one SYN each, written to a raw socket. PROTOCOL.md 5. */
final class KnockSender {
    private static final int CAP_NET_RAW = 13, NONE = 0;
    private static final String NAT64 = "64:ff9b::/96"; // RFC 6052

    /** Source addresses that somebody may well translate: all but global unicast (RFC 6890). */
    private static final List<String> TRANSLATED = List.of("0.0.0.0/8", "10.0.0.0/8",
            "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
            "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/3", "::/3", "2001:db8::/32", "3fff::/20", "4000::/2", "8000::/1");

    /** How a knock went: the connection has to come from {@code source}, and go to the target. */
    record Sent(InetAddress source, InetAddress target) {}

    private final int socket4, socket6;

    private KnockSender(int socket4, int socket6) {
        this.socket4 = socket4;
        this.socket6 = socket6;
    }

    /**
     * Opens raw sockets, if a carrier needs them, and gives up the right to; without it, starts the
     * program again with it. The carrier {@code address} needs none, nor any privilege.
     */
    static KnockSender open(boolean raw) throws IOException {
        long capabilities = Sudo.status("CapEff", 16);
        if (!raw) {
            if (capabilities != 0) { // root's, or those that systemd gives to whoever logs in
                Sudo.withoutRoot();
                Sys.dropCapabilities();
            }
            return new KnockSender(NONE, NONE);
        }
        boolean permitted = (capabilities >> CAP_NET_RAW & 1) == 1;
        if (!permitted || Sys.uid() == 0 && capabilities != 1L << CAP_NET_RAW) {
            throw Sudo.withNetRaw();
        }
        var sender = new KnockSender(Sys.rawSocket(Sys.AF_INET), Sys.rawSocket(Sys.AF_INET6));
        if (sender.socket4 < 0 && sender.socket6 < 0) {
            throw new Failure("cannot open a raw socket (" + Sys.errno(-sender.socket4)
                    + "): does a container forbid it?");
        }
        Sys.forbidTracing();
        Sys.dropCapabilities();
        return sender;
    }

    /**
     * Sends one knock for {@code port} to the first of {@code addresses} that has a route.
     * {@code boundTo} is "any", "bound", an address, or "", as in a profile's config; {@code from}
     * is the address of this host that it has to leave from, if any.
     */
    Sent knock(Profile profile, int port, KnockCodec.Carrier carrier, String boundTo,
            List<InetAddress> addresses, Optional<InetAddress> from) throws IOException {
        profile.config().checkOpens(port, profile.name());
        boolean plain = carrier == KnockCodec.Carrier.ADDRESS;
        var noRoute = new Failure(plain ? profile.name() + " has no IPv6 address of its own, which"
                + " the carrier address needs" : "no address of " + profile.name()
                + " is of that IP version");
        for (var target : addresses) {
            if (from.isPresent() && from.get().getClass() != target.getClass()
                    || plain && (target instanceof Inet4Address || isIn(NAT64, target))) {
                continue;
            }
            Route route;
            try {
                route = plain ? AddressSender.route(target, port, from)
                        : Route.find(target, port, from);
            } catch (Failure e) {
                noRoute = e;
                continue;
            }
            send(profile, port, carrier, boundTo, route, target);
            return new Sent(route.source(), target);
        }
        throw noRoute;
    }

    /** The sender's steps of PROTOCOL.md 5. */
    private void send(Profile profile, int port, KnockCodec.Carrier carrier, String boundTo,
            Route route, InetAddress target) throws IOException {
        boolean plain = carrier == KnockCodec.Carrier.ADDRESS;
        int socket = target instanceof Inet6Address ? socket6 : socket4;
        if (!plain && socket <= 0) {
            throw new Failure("no raw socket for " + target.getHostAddress() + (socket == NONE
                    ? ", as no profile needed one at the start: start the proxy again"
                    : " (" + Sys.errno(-socket) + "): is its IP version switched off?"));
        }
        var own = route.source();
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
            } while (fields.id() == 0 && !plain);
            // 5. Send one packet.
            int knockPort = profile.config().knockPort();
            if (plain) {
                AddressSender.send(own, KnockCodec.address(target, fields), knockPort);
            } else {
                Sys.send(socket, KnockPacket.make(own, target, knockPort, fields,
                        KnockPacket.shape(route), Sys.random()), own, target);
            }
        }
    }

    /** The carrier that a profile's config names. */
    static KnockCodec.Carrier carrier(ProfileConfig config) {
        return KnockCodec.Carrier.valueOf(config.carrier().toUpperCase(Locale.ROOT));
    }

    /** The address to which a knock is bound, as it goes under the tag: 4 or 16 bytes, or none. */
    static byte[] bound(String boundTo, InetAddress own, InetAddress target) {
        return switch (boundTo) {
            case "any" -> KnockCodec.UNBOUND;
            case "bound" -> own.getAddress();
            case "" -> TRANSLATED.stream().anyMatch(range -> isIn(range, own))
                    || isIn(NAT64, target) ? KnockCodec.UNBOUND
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
}
