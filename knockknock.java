///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN Knockknock
//SOURCES lib/AddressSender.java
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/KnockPacket.java
//SOURCES lib/KnockSender.java
//SOURCES lib/Libc.java
//SOURCES lib/Ports.java
//SOURCES lib/Profile.java
//SOURCES lib/ProfileConfig.java
//SOURCES lib/Route.java
//SOURCES lib/Sudo.java
//SOURCES lib/Sys.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:CompileThresholdScaling=2 -XX:-UsePerfData -XX:+DisableAttachMechanism -XX:+ErrorFileToStderr -XX:-CreateCoredumpOnCrash -XX:-DumpReplayDataOnError -Djava.net.preferIPv6Addresses=system
//JAVAC_OPTIONS -XDstringConcat=inline

import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Callable;

import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.ArgGroupSpec;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Model.PositionalParamSpec;
import picocli.CommandLine.TypeConversionException;

/**
 * The client: sends one SYN that asks a server to let one connection in. Reads ~/.knockknock/HOST/,
 * stores the next counter there, and writes one packet to a raw socket. Runs as you, with
 * CAP_NET_RAW until that socket is open, and never as root; with carrier = address with nothing.
 */
final class Knockknock implements Callable<Integer> {
    private final CommandSpec command = Cli.command("knockknock", this,
            "Ask a server to let one connection from here in, with one packet.", """
            Then connect as always, within the 15 seconds that a server gives:
              knockknock -p 22 example.org && ssh example.org

            knockknock-genprofile on the server makes the profile, a directory
            ~/.knockknock/HOST here.
            """, "0:the packet was sent (a server never answers it), or the counter set",
            "1:nothing was sent or set", "2:bad usage")
            .addArgGroup(ArgGroupSpec.builder().multiplicity("1")
                    .addArg(OptionSpec.builder("-p", "--port").paramLabel("PORT")
                            .type(int.class).converters(new Cli.Port())
                            .description("the port to open").build())
                    .addArg(OptionSpec.builder("--counter").paramLabel("NUMBER")
                            .type(long.class).converters(new Cli.CounterValue())
                            .description("send nothing; set the profile's counter forward to"
                            + " NUMBER, after a restored backup").build()).build())
            .addArgGroup(ArgGroupSpec.builder()
                    .addArg(Cli.flag("-4", "knock over IPv4 only"))
                    .addArg(Cli.flag("-6", "knock over IPv6 only")).build())
            .addOption(OptionSpec.builder("--from").paramLabel("ADDRESS")
                    .type(InetAddress.class).converters(new Address())
                    .description("knock from this address of this host, if it has several uplinks;"
                    + " connect from it, too").build())
            .addArgGroup(ArgGroupSpec.builder()
                    .addArg(OptionSpec.builder("--source").paramLabel("ADDRESS")
                            .type(InetAddress.class).converters(new Address())
                            .description("bind the knock to the address that the server sees, such"
                            + " as your NAT's: it works from no other; by default it is bound to"
                            + " your own address if that is public").build())
                    .addArg(Cli.flag("--any-source", "do not bind the knock: anyone who intercepts"
                            + " it can use it")).build())
            .addOption(Cli.flag("--classic", "send the original knockknock's kind of packet: for"
                    + " its daemon, and where something on the way strips TCP timestamps"))
            .addPositional(PositionalParamSpec.builder().paramLabel("HOST").arity("0..1")
                    .type(String.class).description("the server's name or address, which is also"
                    + " the name of its profile; not needed if there is just one").build());

    @Override
    public Integer call() throws IOException {
        var given = command.commandLine().getParseResult();
        Optional<InetAddress> source =
                Optional.ofNullable(given.matchedOptionValue("--source", null));
        Optional<InetAddress> from = Optional.ofNullable(given.matchedOptionValue("--from", null));
        var profiles = Path.of(System.getProperty("user.home"), ".knockknock");
        if (given.hasMatchedOption("--counter")) {
            var counter = Profile.load(profile(profiles)).counter();
            try (var _ = counter.lock()) {
                counter.moveTo(given.matchedOptionValue("--counter", 0L));
            }
            return 0;
        }
        int port = given.matchedOption("--port").getValue();
        var directory = profile(profiles);
        var config = ProfileConfig.read(directory);
        var carrier = given.hasMatchedOption("--classic") ? KnockCodec.Carrier.CLASSIC
                : KnockSender.carrier(config);
        var sender = KnockSender.open(carrier != KnockCodec.Carrier.ADDRESS);
        var profile = Profile.load(directory);
        var boundTo = given.hasMatchedOption("--any-source") ? "any"
                : source.map(InetAddress::getHostAddress).orElse(config.source());
        int version = given.hasMatchedOption("-4") ? 4 : given.hasMatchedOption("-6") ? 6
                : config.ipVersion();
        sender.knock(profile, port, carrier, boundTo, addresses(profile.name(), version), from);
        return 0;
    }

    private static final class Address implements ITypeConverter<InetAddress> {
        @Override
        public InetAddress convert(String text) {
            if (!ProfileConfig.isAddress(text)) {
                throw new TypeConversionException("'" + text + "' is not an address");
            }
            return InetAddress.ofLiteral(text);
        }
    }

    private Path profile(Path profiles) throws IOException {
        var given = command.commandLine().getParseResult();
        return given.hasMatchedPositional(0)
                ? directory(profiles, given.matchedPositionalValue(0, "")) : onlyOne(profiles);
    }

    private static Path directory(Path profiles, String host) {
        if (host.isEmpty() || host.contains("/") || host.startsWith(".")) {
            throw new Failure("'" + host + "' is not a host name");
        }
        if (!host.matches("\\p{ASCII}*")) {
            throw new Failure("'" + host + "' is not ASCII: write it as name servers know it, which"
                    + " begins with xn--, and call the profile so");
        }
        return profiles.resolve(host);
    }

    private static Path onlyOne(Path profiles) throws IOException {
        var all = ProfileConfig.list(profiles);
        if (all.size() != 1) {
            throw new Failure(all.isEmpty()
                    ? "there is no profile in " + profiles + ": copy one from the server"
                    : "there are several profiles in " + profiles + ": say which HOST");
        }
        return all.getFirst();
    }

    /**
     * The host's addresses in the order in which the system would try them (RFC 6724); of one IP
     * version, or of both if it is 0.
     */
    private static List<InetAddress> addresses(String name, int version) {
        try {
            var found = ProfileConfig.ofVersion(List.of(InetAddress.getAllByName(name)), version);
            if (found.isEmpty()) {
                throw new Failure(name + " has no IPv" + version + " address");
            }
            return found;
        } catch (UnknownHostException e) {
            throw new Failure("the host name " + name + " is unknown: check it, and that names can"
                    + " be looked up");
        }
    }

    static void main(String[] args) {
        Cli.run(new Knockknock().command, args);
    }
}
