import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The commands where people run them: without a locale, in containers, through doas and ssh; from a
 * checkout and installed.
 */
class ElsewhereTest {
    @AutoClose
    private static Lab lab;
    private static Path bin;

    @BeforeAll
    static void install() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 6650, Lab.SERVER);
        bin = Install.shared(lab);
        lab.asAlice(List.of());
        lab.must("usermod", "--home", lab.home.toString(), "alice");
        Lab.sudoFor("(root) ALL");
        lab.startDaemon();
    }

    @AfterAll
    static void remove() throws Exception {
        lab.stopDaemon();
    }

    @SafeVarargs
    private static List<String> join(List<String>... parts) {
        return Stream.of(parts).flatMap(List::stream).toList();
    }

    /** A client of both kinds, which looks for its profile in the home of whoever runs it. */
    private static List<String> client(String kind, String... arguments) throws Exception {
        var command = new ArrayList<>(kind.equals("installed")
                ? List.of(bin.resolve("knockknock").toString())
                : lab.script("knockknock"));
        // with its class path where that user may read it, and in his home
        if (kind.equals("checkout")) {
            var jars = Files.createDirectories(lab.home.resolve(".jbang"));
            int at = command.indexOf("-classpath") + 1;
            lab.must(join(List.of("cp", "-t", jars.toString()),
                    List.of(command.get(at).split(":"))));
            command.set(at, Stream.of(command.get(at).split(":"))
                    .map(jar -> jars + "/" + Path.of(jar).getFileName())
                    .collect(Collectors.joining(":")));
            command.removeIf(argument -> argument.startsWith("-Duser.home="));
        }
        command.addAll(List.of(arguments));
        return command;
    }

    private static Lab.Result run(List<String> before, List<String> command) throws Exception {
        return lab.run(Lab.on("client", join(before, command)));
    }

    /** One knock opens; what the command says is passed over. */
    private static void assertKnocks(List<String> before, List<String> command) throws Exception {
        long opened = lab.said("opened port 22");
        var result = run(before, command);
        assertEquals(0, result.exit(), result.toString());
        Lab.await(() -> "the knock: " + lab.said(), () -> lab.said("opened port 22") == opened + 1);
        // makes room for the next
        lab.must(Lab.on("client", "sh", "-c", "nc -z -w 1 " + Lab.SERVER + " 22 || true"));
    }

    private static void assertSays(String text, Lab.Result result) {
        assertEquals(1, result.exit(), result.toString());
        assertEquals("", result.out());
        assertTrue(result.err().startsWith("knockknock: ") && result.err().contains(text),
                result.err());
        assertEquals(1, result.err().lines().count(), result.err());
    }

    private static final List<String> NO_LOCALE = List.of("env", "-i", "PATH=/usr/bin:/bin");
    private static final List<String> AS_ALICE =
            List.of("setpriv", "--reuid=alice", "--regid=alice", "--init-groups");

    @ParameterizedTest
    @ValueSource(strings = {"installed", "checkout"})
    void aHomeWithABlankAndAnUmlautDoesWithoutALocale(String kind) throws Exception {
        lab.must("chown", "-R", "alice", lab.home.toString());
        // java itself needs one to find its class path in that home
        var locale = kind.equals("installed") ? NO_LOCALE
                : List.of("env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8");
        assertKnocks(join(AS_ALICE, locale), client(kind, "-p", "22", Lab.SERVER));
    }

    @Test
    void aServersDirectoryIsAWholeNameAndMayBeCalledAnything() throws Exception {
        var dir = lab.work.resolve("Übung für alle");
        var installed = List.of(bin.resolve("knockknock-genprofile").toString());
        for (var genprofile : List.of(installed, lab.script("knockknock-genprofile"))) {
            var result = lab.run(join(genprofile, List.of("--dir", "server", "x1", "9250")));
            assertEquals(2, result.exit());
            assertTrue(result.err().contains("'server' does not begin with /: give the whole path"),
                    result.err());
        }
        lab.must(join(NO_LOCALE, installed, List.of("--dir", dir.toString(), "x1", "9250")));
        assertTrue(Files.exists(dir.resolve("profiles/x1/mac.key")),
                lab.must("find", lab.work.toString()));

        // From a checkout without a locale Java has no name for it: nothing is made.
        var result = lab.run(join(NO_LOCALE,
                lab.script("knockknock-genprofile", "--dir", dir.toString(), "x2", "9251")));
        assertEquals(2, result.exit(), result.toString());
        assertTrue(result.err().contains("is no name in this locale: set LC_ALL=C.UTF-8"),
                result.err());
        assertEquals(List.of("x1"), Profile.list(dir.resolve("profiles")).stream()
                .map(path -> path.getFileName().toString()).toList());
    }

    @Test
    void aCurrentDirectoryThatIsGoneStopsNobody() throws Exception {
        var gone = List.of("sh", "-c", "mkdir $0/gone && cd $0/gone && rmdir $0/gone && exec "
                + "\"$@\"", lab.work.toString());
        lab.must("chmod", "777", lab.work.toString());
        lab.must("chown", "-R", "alice", lab.home.toString());
        assertKnocks(join(AS_ALICE, gone), client("installed", "-p", "22", Lab.SERVER));
        lab.must("chmod", "755", lab.work.toString());
    }

    @Test
    void aHostNameThatIsNotAsciiIsNamedAsNameServersKnowIt() throws Exception {
        for (var before : List.of(List.of("env"), NO_LOCALE)) {
            var result = run(before, Lab.withNetRaw(lab.script("knockknock", "-p", "22",
                    "bücher.example")));
            assertEquals(2, result.exit());
            assertTrue(result.err().contains("'bücher.example' is not ASCII: write it as name "
                    + "servers know it"), result.err());
            assertEquals(1, result.err().lines().count(), result.err());
        }
    }

    @Test
    void whatNobodyForesawIsOneLineToo() throws Exception {
        lab.must("chown", "-R", "root", lab.home.toString());
        var command = new ArrayList<>(lab.script("knockknock", "-p", "22", Lab.SERVER));
        command.replaceAll(argument -> argument.replaceAll(":[^:]*bcprov[^:]*", ""));
        var result = run(List.of(), Lab.withNetRaw(command));
        assertSays("unexpected: java.lang.NoClassDefFoundError: org/bouncycastle/", result);
        assertTrue(result.err().contains(" at Credentials.load(Credentials.java:")
                && result.err().contains("please report"), result.err());
        command.add(1, "-Dknockknock.trace");
        assertTrue(run(List.of(), Lab.withNetRaw(command)).err().contains("\tat Knockknock.call("));
    }

    // Containers: what their root lacks

    private static List<String> rootWith(String capabilities) {
        return List.of("env", "HOME=/nowhere", "setpriv", "--bounding-set=" + capabilities);
    }

    @ParameterizedTest
    @CsvSource({
        "installed, '-all,+net_raw,+chown', setpriv cannot take root's other capabilities away",
        "checkout, '-all,+net_raw,+chown', setpriv cannot take root's other capabilities away",
        "installed, '-net_raw', root has no CAP_NET_RAW here: a container needs --cap-add=NET_RAW",
        "checkout, '-net_raw', 'nobody has CAP_NET_RAW here, not even root: a container needs "
                + "--cap-add=NET_RAW'"})
    void aContainersRootIsToldOnceWhatItLacks(String kind, String capabilities,
            String says) throws Exception {
        lab.must("chown", "-R", "root", lab.home.toString());
        var asHome = List.of("unshare", "--mount", "sh", "-c",
                "mount --bind \"$0\" /root && exec \"$@\"", lab.home.toString());
        assertSays(says, run(asHome, Stream.concat(rootWith(capabilities).stream(),
                client(kind, "-p", "22", Lab.SERVER).stream()).toList()));
    }

    @ParameterizedTest
    @ValueSource(strings = {"installed", "checkout"})
    void aContainersRootNeedsCapNetRawAndNothingElse(String kind) throws Exception {
        var profile = Path.of("/root/.knockknock").resolve(Lab.SERVER);
        lab.must("mkdir", "-p", profile.getParent().toString());
        lab.must("cp", "-r", lab.clientProfile(Lab.SERVER).toString(), profile.toString());
        lab.must("chown", "-R", "root", profile.toString());
        try {
            assertKnocks(rootWith("-all,+net_raw"), client(kind, "-p", "22", Lab.SERVER));
        } finally {
            lab.must("cp", profile.resolve("counter").toString(),
                    lab.clientProfile(Lab.SERVER).resolve("counter").toString());
            lab.must("rm", "-r", profile.toString());
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"installed", "checkout"})
    void aUserWithoutAnEntryInPasswdHasHome(String kind) throws Exception {
        lab.must("chown", "-R", "54321", lab.home.toString());
        assertKnocks(List.of("env", "HOME=" + lab.home, "setpriv", "--reuid=54321", "--regid=54321",
                "--clear-groups",
                "--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"),
                        client(kind, "-p", "22", Lab.SERVER));
    }

    @ParameterizedTest
    @ValueSource(strings = {"ln -s /dev/null kmsg", "ln -s /dev/console kmsg", "touch kmsg",
            "mknod kmsg c 1 3", "true"})
    void aContainersKmsgThatIsNoKernelsLogIsNamedAtOnce(String kmsg) throws Exception {
        var dev = "mount -t tmpfs tmpfs /mnt; cp -a /dev/null /dev/zero /dev/random "
                + "/dev/urandom /mnt; (cd /mnt; " + kmsg
                + "); mount --move /mnt /dev; exec \"$@\"";
        for (var command : List.of("knockknock-daemon", "knockknock-check")) {
            var result = lab.run(join(List.of("unshare", "--mount", "sh", "-ec", dev, "sh"),
                    lab.script(command, "--dir", lab.dir.toString())));
            assertEquals(1, result.exit(), result.toString());
            assertEquals("knockknock: there is no kernel's log in /dev/kmsg, which is to be the "
                    + "character device 1:11: a container needs"
                    + " --device=/dev/kmsg; or follow a file with the kernel's messages, with "
                            + "--log FILE\n", result.err());
        }
    }

    // Other ways to start it

    @Test
    void doasServesAsSudoDoes() throws Exception {
        lab.must("chown", "-R", "alice", lab.home.toString());
        Files.writeString(Path.of("/etc/doas.conf"), "permit nopass alice as root\n");
        lab.must("chmod", "400", "/etc/doas.conf");
        assertKnocks(join(AS_ALICE, List.of("doas")), client("installed", "-p", "22", Lab.SERVER));
        assertEquals("alice\n", lab.must("stat", "-c", "%U",
                lab.clientProfile(Lab.SERVER).resolve("counter").toString()));
        Files.writeString(Path.of("/etc/doas.conf"), "permit nopass keepenv alice as root\n",
                StandardOpenOption.TRUNCATE_EXISTING);
        assertSays("both DOAS_USER and SUDO_UID are set",
                run(join(AS_ALICE, List.of("env", "SUDO_UID=0 /tmp/evil.sh", "SUDO_GID=0",
                "doas")), client("installed", "-p", "22", Lab.SERVER)));
    }

    @Test
    void theCounterIsSetForwardWithoutAnyRights() throws Exception {
        lab.must("chown", "-R", "alice", lab.home.toString());
        long next = Long.parseLong(Files.readString(lab.clientProfile(Lab.SERVER)
                .resolve("counter")).strip()) + 5;
        var withoutSudo = join(List.of("setpriv", "--no-new-privs"), AS_ALICE);
        assertEquals(new Lab.Result(0, "", ""),
                run(withoutSudo, client("installed", "--counter", "" + next, Lab.SERVER)));
        assertKnocks(AS_ALICE, client("installed", "-p", "22", Lab.SERVER));
    }

    @Test
    void theLauncherStartsNothingByANameThatIsNotACommands() throws Exception {
        var other = Files.createSymbolicLink(lab.work.resolve("6"), bin.resolve("knockknock"));
        assertSays(other + " is none of knockknock's commands",
                lab.run(List.of(other.toString(), "-p", "22", Lab.SERVER)));
    }

    /**
     * As the README has it: a Match behind the HostName, and no knock where a connection is shared.
     */
    @Test
    void sshKnocksForTheHostBehindAnAliasAndNotOverAConnectionThatIsShared() throws Exception {
        lab.must("chown", "-R", "root", lab.home.toString());
        var key = Sshd.start(lab, Lab.on("server"), Lab.SERVER, 22);
        var knock = Files.writeString(lab.work.resolve("knockknock"),
                "#!/bin/sh\nexec setpriv --bounding-set=-all,+net_raw '"
                + String.join("' '", lab.script("knockknock")) + "' \"$@\"\n");
        lab.must("chmod", "755", knock.toString());
        var config = Files.writeString(lab.work.resolve("ssh_config"), """
                Host web
                    HostName 192.0.2.1
                    ControlMaster auto
                    ControlPath /run/knock-ssh-%r@%h:%p
                    ControlPersist 30

                Match host 192.0.2.1 exec "test -S /run/knock-ssh-%r@%h:%p || knockknock -p 22 %h"

                Host *
                    User root
                    IdentityFile KEY
                    BatchMode yes
                    StrictHostKeyChecking no
                    UserKnownHostsFile /dev/null
                    LogLevel ERROR
                """.replace("KEY", key.toString()));
        long opened = lab.said("opened port 22");
        for (int i = 0; i < 3; i++) {
            assertEquals("in\n", lab.mustOn("client", "env", "PATH=" + lab.work + ":"
                    + System.getenv("PATH"),
                    "ssh", "-F", config.toString(), "web", "echo in"));
        }
        assertEquals(opened + 1, lab.said("opened port 22"), lab.said());
        lab.mustOn("client", "ssh", "-F", config.toString(), "-O", "exit", "web");
        assertFalse(Files.exists(Path.of("/run/knock-ssh-root@192.0.2.1:22")));
    }
}
