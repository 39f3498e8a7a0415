///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockProxy
//SOURCES lib/Addresses.java
//SOURCES lib/Carrier.java
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/Libc.java
//SOURCES lib/Ports.java
//SOURCES lib/Profile.java
//SOURCES lib/client/CounterLock.java
//SOURCES lib/client/Credentials.java
//SOURCES lib/client/KnockPacket.java
//SOURCES lib/client/KnockSender.java
//SOURCES lib/client/NetRaw.java
//SOURCES lib/client/RawSocket.java
//SOURCES lib/proxy/Backoff.java
//SOURCES lib/proxy/Dialer.java
//SOURCES lib/proxy/Profiles.java
//SOURCES lib/proxy/Relay.java
//SOURCES lib/proxy/Socks.java
// Room for a thousand busy connections; addresses in the system's order (RFC 6724).
//RUNTIME_OPTIONS -Xmx256m -Djava.net.preferIPv6Addresses=system

import java.io.IOException;
import java.net.BindException;
import java.net.ConnectException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.NoRouteToHostException;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;

import picocli.CommandLine.Model.CommandSpec;

/**
 * A SOCKS5 proxy for one person's own machine: knocks for each connection to a host that has a
 * profile, then connects. Listens on the loopback addresses only, where every local user can use
 * it. Runs as you, with CAP_NET_RAW until the raw sockets are open, and never as root.
 */
final class KnockknockProxy implements Callable<Integer> {
    private static final int CONNECT_MILLIS = 10_000; // to a host without a profile
    private static final int KNOCK_MILLIS = 2_000; // from a knock until it counts as lost
    private static final int FIRST_KNOCK_MILLIS = 1_000; // where there is another IP version
    private static final int KNOCKS = 2; // over each IP version
    private static final long QUIET_NANOS = 10_000_000_000L; // between complaints about programs

    private final CommandSpec command = Cli.command("knockknock-proxy", this,
            "A SOCKS5 proxy on this machine that knocks before it connects.", """
            Give it to programs as SOCKS5 proxy 127.0.0.1, for example:
              curl --socks5-hostname 127.0.0.1:1080 https://example.org/

            It knocks on hosts that have a profile in ~/.knockknock, and connects to all
            others directly. It asks nobody for a password: run it on a machine whose users
            may all use your profiles.
            """, "1:it could not start", "2:bad usage")
            .addOption(Cli.option("--socks-timeout", "SECONDS", Config.number(3600), "how long a"
                    + " program may take to say where it wants to go (default: 10)"))
            .addPositional(Cli.argument(0, "1", "LISTENPORT", Ports::number,
                    "the port to listen on, such as 1080"));

    private final ScheduledThreadPoolExecutor deadlines = new ScheduledThreadPoolExecutor(1);
    private final Map<String, ReentrantLock> locks = new ConcurrentHashMap<>(); // by target
    private final Map<String, Backoff> backoffs = new ConcurrentHashMap<>(); // by profile
    private final Map<String, Class<?>> lastHelped = new ConcurrentHashMap<>(); // IP version
    private final AtomicLong quietUntil = new AtomicLong(System.nanoTime());
    private Profiles profiles;
    private KnockSender sender;
    private int socksTimeout;

    @Override
    public Integer call() throws IOException, InterruptedException {
        var given = command.commandLine().getParseResult();
        int listenPort = given.matchedPositionalValue(0, 0);
        socksTimeout = given.matchedOptionValue("--socks-timeout", 10);
        var directory = Path.of(System.getProperty("user.home"), ".knockknock");
        boolean raw = false;
        for (var profile : Profile.list(directory)) {
            try {
                raw |= Profile.read(profile).carrier() != Carrier.ADDRESS;
            } catch (Failure e) {
                Cli.complain("warning: " + e.getMessage());
            }
        }
        sender = KnockSender.open(raw);
        profiles = new Profiles(directory);
        if (profiles.names().isEmpty()) {
            Cli.complain("warning: there is no profile in " + directory
                    + ": connecting without knocks");
        }
        deadlines.setRemoveOnCancelPolicy(true);
        var listeners = new ArrayList<Thread>();
        for (var loopback : List.of("127.0.0.1", "::1")) {
            var address = InetAddress.ofLiteral(loopback);
            if (NetworkInterface.getByInetAddress(address) != null) { // no ::1 without IPv6
                var listener = listen(new InetSocketAddress(address, listenPort));
                listeners.add(Thread.ofPlatform().start(() -> accept(listener)));
            }
        }
        System.out.println("ready: SOCKS5 on port " + listenPort + " of this machine, knocking for "
                + profiles.names());
        profiles.lookUpNames();
        for (var listener : listeners) {
            listener.join();
        }
        return 1;
    }

    private static ServerSocketChannel listen(InetSocketAddress address) throws IOException {
        try {
            return ServerSocketChannel.open().bind(address, 1024);
        } catch (BindException e) {
            throw new Failure("cannot listen on port " + address.getPort() + ": " + e.getMessage()
                    + ": choose another");
        }
    }

    private void accept(ServerSocketChannel listener) {
        for (;;) {
            try {
                var client = listener.accept();
                Thread.startVirtualThread(() -> serve(client));
            } catch (IOException e) {
                Cli.complain("cannot accept connections for now: " + e.getMessage());
                LockSupport.parkNanos(100_000_000); // until descriptors are free again, mostly
            }
        }
    }

    /** One client, from its greeting to the end of its connection. */
    private void serve(SocketChannel client) {
        try (client) {
            try (var server = connect(request(client))) {
                Socks.reply(client, Socks.SUCCEEDED, (InetSocketAddress) server.getLocalAddress());
                Relay.run(client, server);
            } catch (Socks.Refused e) {
                Socks.reply(client, e.code);
                client.shutdownOutput();
                // a close now could overtake the reply
                withDeadline(client, () -> client.read(ByteBuffer.allocate(512)));
            }
        } catch (Socks.OtherProtocol e) {
            long now = System.nanoTime(), quiet = quietUntil.get();
            if (now - quiet >= 0 && quietUntil.compareAndSet(quiet, now + QUIET_NANOS)) {
                Cli.complain("a program speaks " + e.getMessage() + " to this port, which is for"
                        + " SOCKS5: set it to SOCKS version 5 (socks5h://)");
            }
        } catch (IOException | InterruptedException e) {
            // the client has gone, or was too slow: nobody is there to be told
        }
    }

    private Socks.Request request(SocketChannel client) throws IOException {
        return withDeadline(client, () -> Socks.accept(client));
    }

    private interface Exchange<T> {
        T run() throws IOException;
    }

    /**
     * Does something with a client, whose connection is closed if that takes longer than the
     * timeout.
     */
    private <T> T withDeadline(SocketChannel client, Exchange<T> exchange) throws IOException {
        var deadline = deadlines.schedule(() -> {
            client.close();
            return null;
        }, socksTimeout, TimeUnit.SECONDS);
        try {
            return exchange.run();
        } finally {
            deadline.cancel(false);
        }
    }

    /** Connects to where the client wants to go, with a knock if that is a host with a profile. */
    private SocketChannel connect(Socks.Request request) throws IOException, InterruptedException {
        try {
            var profile = profiles.find(request.host());
            var host = Profiles.canonical(request.host());
            if (profile.isEmpty()) {
                return Dialer.first(List.of(InetAddress.getAllByName(request.host())),
                        request.port(), CONNECT_MILLIS);
            }
            var name = Addresses.isAddress(host) ? host : profile.get().profile().name();
            return knockAndConnect(profile.get(), List.of(InetAddress.getAllByName(name)),
                    request.port());
        } catch (UnknownHostException | NoRouteToHostException | SocketTimeoutException e) {
            throw new Socks.Refused(Socks.HOST_UNREACHABLE, e.getMessage());
        } catch (ConnectException e) {
            throw new Socks.Refused(Socks.CONNECTION_REFUSED, e.getMessage());
        } catch (SocketException e) {
            throw new Socks.Refused(Socks.NETWORK_UNREACHABLE, e.getMessage());
        } catch (IOException | Failure e) { // no counter, or no packet
            Cli.complain("no knock for " + request.host() + ": " + e.getMessage());
            throw new Socks.Refused(Socks.GENERAL_FAILURE, e.getMessage());
        }
    }

    /**
     * A knock for every connection, and only one connection to a port between its knock and its
     * connect, so that none takes the opening of another. A knock that does not help is repeated
     * once, and over each IP version that the host has; the one that helped last comes first.
     */
    private SocketChannel knockAndConnect(Credentials with, List<InetAddress> addresses, int port)
            throws IOException, InterruptedException {
        var profile = with.profile();
        profile.checkOpens(port);
        if (profile.openPorts().map(ports -> ports.udp().get(port)).orElse(false)) {
            throw new Failure("the profile " + profile.name() + " opens port " + port
                    + " for UDP, and the proxy connects over TCP");
        }

        var backoff = backoffs.computeIfAbsent(profile.name(), _ -> new Backoff());
        var versions = versions(profile, addresses);
        var lock = locks.computeIfAbsent(profile.name() + " " + port, _ -> new ReentrantLock(true));

        lock.lock();
        try {
            int knocks = KNOCKS * versions.size();
            for (int knock = 1;; knock++) {
                if (!backoff.mayKnock()) {
                    throw new ConnectException("knocks for " + profile.name() + " do not help");
                }
                var version = versions.get((knock - 1) % versions.size());
                int millis = knock < versions.size() ? FIRST_KNOCK_MILLIS : KNOCK_MILLIS;
                try {
                    var sent = sender.knock(with, port, version, Optional.empty());
                    var channel = Dialer.persist(sent.source(),
                            new InetSocketAddress(sent.target(), port), millis);
                    backoff.helped();
                    lastHelped.put(profile.name(), version.getFirst().getClass());
                    return channel;
                } catch (Failure e) { // no packet was sent: is there no route over this version?
                    if (knock == knocks) {
                        throw e;
                    }
                } catch (IOException e) {
                    if (backoff.failed()) {
                        Cli.complain("knocks for " + profile.name() + " do not help: from now on"
                                + " one in ten seconds, later one in a minute, until one does");
                    }
                    if (knock == knocks) {
                        Cli.complain(profile.name() + " did not open port " + port + " after "
                                + knocks + " tries");
                        throw e;
                    }
                }
            }
        } finally {
            lock.unlock();
        }
    }

    /** The addresses that the profile takes, in a list for each IP version that has a route. */
    private List<List<InetAddress>> versions(Profile profile, List<InetAddress> addresses)
            throws UnknownHostException {
        var versions = new ArrayList<List<InetAddress>>();
        for (int version : new int[] {6, 4}) {
            var some = Addresses.ofVersion(version, addresses);
            if (!some.isEmpty() && (version == profile.ipVersion() || profile.ipVersion() == 0)) {
                versions.add(some);
            }
        }
        if (versions.isEmpty()) {
            throw new UnknownHostException(profile.name() + " has no IPv" + profile.ipVersion()
                    + " address");
        }
        var first = lastHelped.getOrDefault(profile.name(), addresses.getFirst().getClass());
        versions.sort(Comparator.comparing(some -> some.getFirst().getClass() != first));
        return versions;
    }

    static void main(String[] args) throws IOException {
        var command = new KnockknockProxy().command;
        NetRaw.restartInUtf8(args);
        Cli.run(command, args);
    }
}
