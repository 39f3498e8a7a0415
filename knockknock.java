///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN Knockknock
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/KnockSender.java
//SOURCES lib/Profile.java
//SOURCES lib/ProfileConfig.java
//SOURCES lib/Sudo.java
//SOURCES lib/Sys.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -XX:+DisableAttachMechanism -XX:+ErrorFileToStderr -XX:-CreateCoredumpOnCrash -XX:-DumpReplayDataOnError -Djava.net.preferIPv6Addresses=system
//JAVAC_OPTIONS -XDstringConcat=inline

import java.io.IOException;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Stream;

import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/**
 * The client: sends one SYN that asks a server to let one connection in. Reads ~/.knockknock/HOST/,
 * stores the next counter there, and writes one packet to a raw socket. Runs as you, with
 * CAP_NET_RAW until that socket is open, and never as root.
 */
@Command(name = "knockknock", mixinStandardHelpOptions = true, sortOptions = false,
        versionProvider = Cli.Version.class,
        description = "Ask a server to let one connection from here in, with one packet.%n",
        footer = {"", "Then connect as always, within the 15 seconds that a server gives:",
            "  knockknock -p 22 example.org && ssh example.org", "",
            "knockknock-genprofile on the server makes the profile, a directory"
            + " ~/.knockknock/HOST here.", ""},
        exitCodeListHeading = "Exit codes:%n",
        exitCodeList = {"0:the packet was sent (a server never answers it)",
            "1:it could not be sent", "2:bad usage"})
final class Knockknock implements Callable<Integer> {
    @Option(names = {"-p", "--port"}, required = true, paramLabel = "PORT",
            converter = Cli.Port.class, description = "the port to open")
    private int port;

    @ArgGroup
    private Family family = new Family();

    static final class Family {
        @Option(names = "-4", description = "knock over IPv4 only")
        private boolean four;

        @Option(names = "-6", description = "knock over IPv6 only")
        private boolean six;
    }

    @ArgGroup
    private Source source = new Source();

    static final class Source {
        @Option(names = "--source", paramLabel = "ADDRESS", description = "bind the knock to this"
                + " address, from which alone it can be used, such as your NAT's; by default it is"
                + " bound if it leaves from a public address")
        private String address;

        @Option(names = "--any-source", description = "do not bind the knock: anyone who"
                + " intercepts it can use it")
        private boolean any;
    }

    @Option(names = "--classic", description = "send the original knockknock's kind of packet: for"
            + " its daemon, and where something on the way strips TCP timestamps")
    private boolean classic;

    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "HOST", arity = "0..1", description = "the server, by the name of its"
            + " profile; not needed if there is just one profile")
    private String host;

    @Override
    public Integer call() throws IOException {
        if (source.address != null && !ProfileConfig.isAddress(source.address)) {
            throw new ParameterException(spec.commandLine(),
                    "'" + source.address + "' is not an address");
        }
        var sender = KnockSender.open();
        var profiles = Path.of(System.getProperty("user.home"), ".knockknock");
        var profile = Profile.load(directory(profiles));
        var config = profile.config();
        var carrier = classic || config.classic() ? KnockCodec.Carrier.CLASSIC
                : KnockCodec.Carrier.COVER;
        var boundTo = source.any ? "any" : source.address != null ? source.address
                : config.source();
        sender.knock(profile, port, carrier, boundTo, addresses(profile.name()));
        return 0;
    }

    private Path directory(Path profiles) throws IOException {
        if (host == null) {
            var all = ProfileConfig.list(profiles);
            if (all.size() != 1) {
                throw new Failure(all.isEmpty()
                        ? "there is no profile in " + profiles + ": copy one from the server"
                        : "there are several profiles in " + profiles + ": say which HOST");
            }
            return all.getFirst();
        }
        if (host.contains("/") || host.startsWith(".")) {
            throw new Failure("'" + host + "' is not a host name");
        }
        return profiles.resolve(host);
    }

    /** The host's addresses in the order in which the system would try them (RFC 6724). */
    private List<InetAddress> addresses(String name) {
        try {
            var found = Stream.of(InetAddress.getAllByName(name))
                    .filter(a -> a instanceof Inet6Address ? !family.four : !family.six).toList();
            if (found.isEmpty()) {
                throw new Failure(name + " has no IPv" + (family.six ? 6 : 4) + " address");
            }
            return found;
        } catch (UnknownHostException e) {
            throw new Failure("the host name " + name + " is unknown: check it, and that names can"
                    + " be looked up");
        }
    }

    static void main(String[] args) {
        Cli.run(new Knockknock(), args);
    }
}
