///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockProxy
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Dialer.java
//SOURCES lib/Failure.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/KnockSender.java
//SOURCES lib/Profile.java
//SOURCES lib/ProfileConfig.java
//SOURCES lib/Relay.java
//SOURCES lib/Socks.java
//SOURCES lib/Sudo.java
//SOURCES lib/Sys.java
//JAVAC_OPTIONS -XDstringConcat=inline
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -XX:-UsePerfData -XX:+DisableAttachMechanism -Xmx256m -Djava.net.preferIPv6Addresses=system -XX:+ErrorFileToStderr -XX:-CreateCoredumpOnCrash -XX:-DumpReplayDataOnError

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
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Model.PositionalParamSpec;
import picocli.CommandLine.ParameterException;

/**
 * A SOCKS5 proxy for one person's own machine: knocks for each connection to a host that has a
 * profile, then connects. Listens on the loopback addresses only, where every local user can use
 * it. Runs as you, with CAP_NET_RAW until the raw sockets are open, and never as root.
 */
final class KnockknockProxy implements Callable<Integer> {
    private static final int CONNECT_MILLIS = 10_000; // to a host without a profile
    private static final int KNOCK_MILLIS = 2_000; // from a knock until it counts as lost
    private static final int KNOCKS = 2;

    private final CommandSpec command = Cli.command("knockknock-proxy", this,
            "A SOCKS5 proxy on this machine that knocks before it connects.", """
            Give it to programs as SOCKS5 proxy 127.0.0.1, for example:
              curl --socks5-hostname 127.0.0.1:1080 https://example.org/

            It knocks on hosts that have a profile in ~/.knockknock, and connects to all
            others directly. It asks nobody for a password: run it on a machine whose users
            may all use your profiles.
            """, "1:it could not start", "2:bad usage")
            .addOption(OptionSpec.builder("--socks-timeout").paramLabel("SECONDS").type(int.class)
                    .defaultValue("10").description("how long a program may take to say where it"
                    + " wants to go (default: ${DEFAULT-VALUE})").build())
            .addPositional(PositionalParamSpec.builder().required(true).paramLabel("LISTENPORT")
                    .type(int.class).converters(new Cli.Port())
                    .description("the port to listen on, such as 1080").build());

    private final ScheduledThreadPoolExecutor deadlines = new ScheduledThreadPoolExecutor(1);
    private final Map<String, ReentrantLock> locks = new ConcurrentHashMap<>(); // by target
    private final List<Profile> profiles = new ArrayList<>();
    private KnockSender sender;
    private int socksTimeout;

    @Override
    public Integer call() throws IOException, InterruptedException {
        int listenPort = command.commandLine().getParseResult().matchedPositional(0).getValue();
        socksTimeout = command.findOption("--socks-timeout").getValue();
        if (socksTimeout < 1) {
            throw new ParameterException(command.commandLine(),
                    "--socks-timeout must be at least 1 second");
        }
        sender = KnockSender.open();
        var directory = Path.of(System.getProperty("user.home"), ".knockknock");
        for (var path : ProfileConfig.list(directory)) {
            profiles.add(Profile.load(path));
        }
        if (profiles.isEmpty()) {
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
                + profiles.stream().map(Profile::name).toList());
        warnOfUnknownNames();
        for (var listener : listeners) {
            listener.join();
        }
        return 1;
    }

    private void warnOfUnknownNames() {
        for (var profile : profiles) {
            try {
                InetAddress.getAllByName(profile.name());
            } catch (UnknownHostException e) {
                Cli.complain("warning: the name of the profile " + profile.name()
                        + " is unknown at the moment");
            }
        }
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
        } catch (IOException | InterruptedException e) {
            // the client has gone, was too slow, or speaks no SOCKS5: nobody is there to be told
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
            var addresses = List.of(InetAddress.getAllByName(request.host()));
            var profile = profileFor(request.host());
            return profile.isPresent() ? knockAndConnect(profile.get(), addresses, request.port())
                    : Dialer.first(addresses, request.port(), CONNECT_MILLIS);
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
     * The profile of a host, by its name, or by an address that a profile's name has at the moment.
     */
    private Optional<Profile> profileFor(String host) {
        return profiles.stream().filter(profile -> profile.name().equalsIgnoreCase(host)
                || host.matches("[0-9.]+|.*:.*") && addresses(profile).contains(host)).findFirst();
    }

    private static List<String> addresses(Profile profile) {
        try {
            return Stream.of(InetAddress.getAllByName(profile.name()))
                    .map(InetAddress::getHostAddress).toList();
        } catch (UnknownHostException e) {
            return List.of();
        }
    }

    /**
     * A knock for every connection, and only one connection to a port between its knock and its
     * connect, so that none takes the opening of another; a knock that does not help is repeated
     * once.
     */
    private SocketChannel knockAndConnect(Profile profile, List<InetAddress> addresses, int port)
            throws IOException, InterruptedException {
        var target = profile.name() + " " + port;
        var lock = locks.computeIfAbsent(target, _ -> new ReentrantLock(true));
        lock.lock();
        try {
            for (int knock = 1;; knock++) {
                var config = profile.config();
                var carrier = config.classic() ? KnockCodec.Carrier.CLASSIC
                        : KnockCodec.Carrier.COVER;
                var address = sender.knock(profile, port, carrier, config.source(), addresses);
                try {
                    return Dialer.persist(new InetSocketAddress(address, port), KNOCK_MILLIS);
                } catch (IOException e) {
                    if (knock == KNOCKS) {
                        Cli.complain(profile.name() + " did not open port " + port + " after "
                                + KNOCKS + " knocks");
                        throw e;
                    }
                }
            }
        } finally {
            lock.unlock();
        }
    }

    static void main(String[] args) {
        Cli.run(new KnockknockProxy().command, args);
    }
}
