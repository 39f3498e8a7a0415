///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockGenprofile
//SOURCES lib/Addresses.java
//SOURCES lib/Carrier.java
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/Ports.java
//SOURCES lib/Profile.java
// It runs for a moment, so only the first compiler pays.
//RUNTIME_OPTIONS -XX:TieredStopAtLevel=1

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.SecureRandom;
import java.util.Base64;
import java.util.concurrent.Callable;

import picocli.CommandLine.Model.ArgGroupSpec;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParameterException;

/**
 * Makes a profile on the server: two random keys, a counter and a config, in one new directory that
 * appears whole or not at all. Reads the other profiles' configs, and changes nothing that is
 * there. To write to /etc/knockknock.d it has to be started as root.
 */
final class KnockknockGenprofile implements Callable<Integer> {
    private static final Path SERVER = Path.of("/etc/knockknock.d");
    private static final FileAttribute<?> FILE =
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------"));
    private static final FileAttribute<?> DIRECTORY =
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"));

    private final CommandSpec command = Cli.command("knockknock-genprofile", this,
            "Make a profile: what one client needs to knock on this server.", """
            Make one for every client, each with a knock port on which nothing listens:
              knockknock-genprofile --open 22,443 laptop 666

            Bring it to the client as the output says, then restart knockknock-daemon.
            """, "0:the profile is made, or its counter set",
            "1:it is not, and nothing was changed", "2:bad usage")
            .addOption(Cli.option("--dir", "DIR", Cli::file, "the server's directory (default: "
                    + SERVER + ")"))
            .addArgGroup(ArgGroupSpec.builder()
                    .addArg(Cli.option("--open", "PORTS", Ports::list, "the only ports that this"
                            + " profile may open, such as 22,51820/udp; recommended, as far more"
                            + " lost knocks then do no harm (default: any TCP port)"))
                    .addArg(Cli.option("--counter", "NUMBER", Counter::number, "make no profile;"
                            + " set the counter of NAME forward to NUMBER, after a restored"
                            + " backup")).build())
            .addPositional(Cli.argument(0, "1", "NAME", KnockknockGenprofile::name, "what to call"
                    + " the profile here, such as the client's name"))
            .addPositional(Cli.argument(1, "0..1", "KNOCKPORT", Ports::number, "the TCP port to"
                    + " knock on, which no service and no other profile uses; not with"
                    + " --counter"));

    @Override
    public Integer call() throws IOException {
        var given = command.commandLine().getParseResult();
        if (given.hasMatchedOption("--counter") == given.hasMatchedPositional(1)) {
            throw new ParameterException(command.commandLine(),
                    "give either a KNOCKPORT, for a new profile, or --counter");
        }
        var dir = given.matchedOptionValue("--dir", SERVER);
        if (Files.exists(dir) && !Files.isWritable(dir)) {
            throw new Failure("cannot write to " + dir + ": start this with sudo");
        }
        var profiles = dir.resolve("profiles");
        var name = given.matchedPositionalValue(0, "");
        var profile = profiles.resolve(name);

        if (given.hasMatchedOption("--counter")) {
            if (!Files.isDirectory(profile)) {
                throw new Failure("there is no profile " + profile + ": look what it is called");
            }
            var counter = Counter.open(profile.resolve("counter"));
            if (!counter.tryLockForGood()) {
                throw new Failure("knockknock-daemon uses " + profile + ": stop it first");
            }
            counter.moveTo(given.matchedOptionValue("--counter", 0L));
            return 0;
        }

        if (Files.exists(profile)) {
            throw new Failure("the profile " + profile + " exists: choose another name, or remove"
                    + " it first");
        }
        int knockPort = given.matchedPositionalValue(1, 0);
        var owner = Profile.byKnockPort(profiles).get(knockPort);
        if (owner != null) {
            throw new Failure("knock port " + knockPort + " belongs to the profile "
                    + owner.directory() + ": choose another");
        }
        var openPorts = given.hasMatchedOption("--open")
                ? "open_ports = " + given.matchedOptionValue("--open", Ports.none()) + "\n" : "";
        make(profile, "[main]\nknock_port = " + knockPort + "\n" + openPorts);

        if (openPorts.isEmpty()) {
            Cli.complain("note: without --open PORTS, 100 lost knocks lock the client out instead"
                    + " of 10,000, and no knock gets through a translator (NAT64)");
        }
        System.out.println("""
                made PROFILE. To bring it to the client, run here, as a user who may log in by ssh,
                  sudo cp -r PROFILE ~/NAME && sudo chown -R $USER ~/NAME
                and then on the client, with this server's name for HOST,
                  mkdir -p -m 700 ~/.knockknock && scp -rp HOST:NAME ~/.knockknock/HOST
                  ssh HOST rm -r NAME
                Then restart knockknock-daemon.""".replace("PROFILE", profile.toString())
                .replace("NAME", name));
        return 0;
    }

    private static String name(String text) {
        if (!text.matches("[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")) {
            throw new Failure("'" + text + "' cannot be a profile's name: use letters, digits, . _"
                    + " and -");
        }
        return text;
    }

    /** Writes everything beside the final place, then moves it there in one step. */
    private static void make(Path profile, String config) throws IOException {
        Files.createDirectories(profile.getParent(), DIRECTORY);
        var unfinished = Files.createTempDirectory(profile.getParent(), ".new-", DIRECTORY);
        try {
            write(unfinished.resolve("cipher.key"), newKey());
            write(unfinished.resolve("mac.key"), newKey());
            write(unfinished.resolve("counter"), "0000000000\n");
            write(unfinished.resolve("config"), config);
            Files.move(unfinished, profile, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException e) {
            try (var files = Files.list(unfinished)) {
                for (var file : files.toList()) {
                    Files.delete(file);
                }
            }
            Files.delete(unfinished);
            throw e;
        }
    }

    private static String newKey() {
        var key = new byte[16];
        new SecureRandom().nextBytes(key);
        return Base64.getEncoder().encodeToString(key) + "\n";
    }

    private static void write(Path file, String text) throws IOException {
        Files.createFile(file, FILE);
        Files.writeString(file, text, StandardCharsets.US_ASCII);
    }

    static void main(String[] args) {
        Cli.run(new KnockknockGenprofile().command, args);
    }
}
