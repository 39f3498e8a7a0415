///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN Knockknock
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
// It runs for a moment: only the first compiler pays, and late (a tenth of a knock). Addresses in
// the system's order (RFC 6724).
//RUNTIME_OPTIONS -XX:TieredStopAtLevel=1 -XX:CompileThresholdScaling=2
//RUNTIME_OPTIONS -Djava.net.preferIPv6Addresses=system

import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Callable;

import picocli.CommandLine.Model.ArgGroupSpec;
import picocli.CommandLine.Model.CommandSpec;

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
                    .addArg(Cli.option("-p --port", "PORT", Ports::number, "the port to open"))
                    .addArg(Cli.option("--counter", "NUMBER", Counter::number, "send nothing; set"
                            + " the profile's counter forward to NUMBER, after a restored backup"))
                    .build())
            .addArgGroup(ArgGroupSpec.builder()
                    .addArg(Cli.flag("-4", "knock over IPv4 only"))
                    .addArg(Cli.flag("-6", "knock over IPv6 only")).build())
            .addOption(Cli.option("--from", "ADDRESS", Addresses::read, "knock from this address"
                    + " of this host, if it has several uplinks; connect from it, too"))
            .addArgGroup(ArgGroupSpec.builder()
                    .addArg(Cli.option("--source", "ADDRESS", Addresses::read, "bind the knock to"
                            + " the address that the server sees, such as your NAT's: it works"
                            + " from no other; by default it is bound to your own address if that"
                            + " is public"))
                    .addArg(Cli.flag("--any-source", "do not bind the knock: anyone who intercepts"
                            + " it can use it")).build())
            .addOption(Cli.flag("--classic", "send the original knockknock's kind of packet: for"
                    + " its daemon, and where something on the way strips TCP timestamps"))
            .addPositional(Cli.argument(0, "0..1", "HOST", Knockknock::host, "the server's name or"
                    + " address, which is also the name of its profile; not needed if there is"
                    + " just one"));

    @Override
    public Integer call() throws IOException {
        var given = command.commandLine().getParseResult();
        var profiles = Path.of(System.getProperty("user.home"), ".knockknock");
        var host = given.matchedPositionalValue(0, "");
        var profile = Profile.read(host.isEmpty() ? onlyOne(profiles) : profiles.resolve(host));

        if (given.hasMatchedOption("--counter")) {
            var counter = profile.openCounter();
            try (var _ = CounterLock.of(counter)) {
                counter.moveTo(given.matchedOptionValue("--counter", 0L));
            }
            return 0;
        }

        // Options come before the profile's settings.
        Optional<InetAddress> source =
                Optional.ofNullable(given.matchedOptionValue("--source", null));
        Optional<InetAddress> from = Optional.ofNullable(given.matchedOptionValue("--from", null));
        profile = profile.with(
                given.hasMatchedOption("--classic") ? Carrier.CLASSIC : profile.carrier(),
                given.hasMatchedOption("--any-source") ? Profile.Source.Rule.ANY
                        : source.<Profile.Source>map(Profile.Source.Other::new)
                                .orElse(profile.source()));
        int version = given.hasMatchedOption("-4") ? 4 : given.hasMatchedOption("-6") ? 6
                : profile.ipVersion();

        // Names are looked up when all privileges are gone.
        var sender = KnockSender.open(profile.carrier() != Carrier.ADDRESS);
        sender.knock(Credentials.load(profile), given.matchedOptionValue("--port", 0),
                addresses(profile.name(), version), from);
        return 0;
    }

    private static String host(String text) {
        if (text.isEmpty() || text.contains("/") || text.startsWith(".")) {
            throw new Failure("'" + text + "' is not a host name");
        }
        if (!text.matches("\\p{ASCII}*")) {
            throw new Failure("'" + text + "' is not ASCII: write it as name servers know it, which"
                    + " begins with xn--, and call the profile so");
        }
        return text;
    }

    private static Path onlyOne(Path profiles) throws IOException {
        var all = Profile.list(profiles);
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
            var found = Addresses.ofVersion(version, List.of(InetAddress.getAllByName(name)));
            if (found.isEmpty()) {
                throw new Failure(name + " has no IPv" + version + " address");
            }
            return found;
        } catch (UnknownHostException e) {
            throw new Failure("the host name " + name + " is unknown: check it, and that names can"
                    + " be looked up");
        }
    }

    static void main(String[] args) throws IOException {
        var command = new Knockknock().command;
        NetRaw.restartInUtf8(args);
        Cli.run(command, args);
    }
}
