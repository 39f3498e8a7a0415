import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** What the admin of a server has to do with: the unit's text and the installed commands. */
class ServiceTest extends InLab {
    private static final Path UNIT = Path.of("knockknock-daemon.service");
    private static final Path DROP_IN = Path.of("/etc/rsyslog.d/10-knockknock.conf");
    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
    }

    /** From the copy of /etc that tests/run makes: what the real machine has of the kind. */
    private void startAfresh() throws Exception {
        lab.run(List.of("sh", "-c", "userdel alice; userdel knockknock; rm -f " + DROP_IN));
    }

    @Test
    void theUnitIsSoundAndRatedTwoAndAHalfOrBetter() throws Exception {
        var unit = Files.readString(UNIT)
                .replace("/usr/local/bin/knockknock-daemon", "/usr/bin/true");
        var copy = Files.writeString(lab.work.resolve(UNIT.toString()), unit);
        var verify = lab.run(List.of("systemd-analyze", "verify", copy.toString()));
        assertEquals(new Lab.Result(0, "", ""), verify);
        var rating = Pattern.compile("Overall exposure level for \\S+: ([0-9.]+)")
                .matcher(lab.must("systemd-analyze", "security", "--offline=yes", copy.toString()));
        assertTrue(rating.find());
        assertTrue(Double.parseDouble(rating.group(1)) <= 2.5, rating.group());
    }

    @Test
    void theInstalledCommandsAreRootsOwnAndServeAnOrdinaryUserAndGoAway() throws Exception {
        startAfresh();
        var bin = Install.fresh(lab);
        var prefix = bin.getParent();
        var lib = prefix.resolve("lib/knockknock");
        assertEquals("", lab.must("find", prefix.toString(), "!", "-user", "root", "-o",
                "!", "-type", "l", "-perm", "/022"));
        // The client, and nothing else, starts from an archive of its classes.
        assertEquals(lib + "/knockknock.aot\n", lab.must("find", lib.toString(), "-name", "*.aot"));
        var options = Files.writeString(lab.work.resolve("options"),
                Files.readString(lib.resolve("knockknock.options"))
                .replace("-Xlog:disable", "-Xlog:class+load:file=" + lab.work + "/loaded"));
        lab.must(Lab.on("client", Lab.withNetRaw(List.of(lib + "/jdk/bin/java",
                "-Duser.home=" + lab.home, "@" + options, "-p", "22", Lab.SERVER))));
        var loaded = Files.readString(lab.work.resolve("loaded"));
        for (var name : List.of("KnockSender", "org.bouncycastle.crypto.digests.SHA1Digest")) {
            assertTrue(loaded.contains(" " + name + " source: shared objects file"), name);
        }

        assertTrue(Files.readString(UNIT)
                .contains("\nExecStart=/usr/local/bin/knockknock-daemon\n"));
        for (var command : List.of("knockknock", "knockknock-check", "knockknock-daemon",
                "knockknock-genprofile", "knockknock-proxy")) {
            assertEquals(lib.resolve("launcher.sh"), Files.readSymbolicLink(bin.resolve(command)));
            // as herself, without sudo
            var help = lab.run(lab.asAlice(List.of(bin + "/" + command, "--help")));
            assertEquals("", help.err());
            assertTrue(help.out().startsWith("Usage: " + command + " "), help.out());
            var page = Files.readString(prefix.resolve("share/man/man8/" + command + ".8"));
            assertTrue(page.startsWith(".TH " + command + " 8\n.SH NAME\n" + command + " \\- "),
                    page);
            assertTrue(page.endsWith(help.out().replace("-", "\\-").stripTrailing() + "\n"), page);
        }
        assertTrue(lab.must("getent", "passwd", "knockknock").endsWith(":/:/usr/sbin/nologin\n"));
        assertEquals("""
                if $syslogfacility-text == "kern" and $msg contains "knockknock: IN="
                    and $msg contains " SYN URGP=" then stop
                """, Files.readString(DROP_IN));

        lab.serve(22);
        lab.startDaemon(List.of(bin.resolve("knockknock-daemon").toString()));
        assertTrue(lab.said().startsWith("ready: knock ports 666, log /dev/kmsg, user "
                + "knockknock\n"), lab.said());
        var knock = List.of(bin.resolve("knockknock").toString(), "-p", "22", Lab.SERVER);
        Lab.sudoFor("(root) " + knock.getFirst());
        assertEquals(new Lab.Result(0, "", ""), lab.run(lab.asAlice(knock)));
        Lab.await(() -> "the knock: " + lab.said(), () -> lab.said("opened port 22") == 1);
        assertTrue(lab.connects(Lab.SERVER, 22), lab.said());

        lab.stopDaemon(); // as its user is to be removed
        assertTrue(lab.must("env", "PREFIX=" + prefix, "./install.sh", "--remove")
                .contains("the line for sudo: take that one out"));
        assertEquals("", lab.must("find", prefix.toString(), "!", "-type", "d"));
        assertFalse(Files.exists(lib));
        assertEquals(2, lab.run(List.of("getent", "passwd", "knockknock")).exit()); // not found
        assertEquals(2, lab.run(List.of("getent", "group", "knockknock")).exit());
        assertFalse(Files.exists(DROP_IN));
    }

    @Test
    void theInstallationLeavesWhatIsThereAndGoesOnWhereNoArchiveOfClassesCanBeMade()
            throws Exception {
        startAfresh();
        lab.must("useradd", "--system", "knockknock");
        var config = Path.of("/etc/knockknock.d/config"); // of a server that follows a log file
        Files.createDirectories(config.getParent());
        Files.writeString(config, "[main]\nlog = /var/log/kern.log\n");
        var prefix = lab.work.resolve("prefix");
        var result = lab.run(List.of("unshare", "--mount", "env", "PREFIX=" + prefix,
                "JAVA_HOME=" + System.getProperty("java.home"), "PATH="
                + Path.of(System.getenv("KNOCK_JBANG")).getParent() + ":" + System.getenv("PATH"),
                "sh", "-c", "mount --bind /usr/bin/false /usr/bin/unshare && ./install.sh"));
        Files.delete(config);
        assertEquals(0, result.exit(), result.toString());
        assertTrue(result.out().contains("without an archive of classes"), result.out());
        assertEquals("", lab.must("find", prefix.toString(), "-name", "*.aot"));
        assertTrue(lab.must(prefix.resolve("bin/knockknock").toString(), "--help")
                .startsWith("Usage: knockknock "));
        assertFalse(result.out().contains("made the system user"), result.out());
        assertFalse(Files.exists(DROP_IN));
        lab.must("env", "PREFIX=" + prefix, "./install.sh", "--remove");
        lab.must("getent", "passwd", "knockknock");
    }

    @Test
    void anOrdinaryUserInstallsAndRemovesWithSudo() throws Exception {
        lab.must("useradd", "--no-create-home", "--home-dir", lab.home.toString(), "alice");
        Lab.sudoFor("(ALL) ALL");
        var checkout = lab.home.resolve("checkout");
        lab.must("sh", "-euc", """
                mkdir -p "$1/.cache"
                git -c safe.directory='*' ls-files -z | xargs -0 cp --parents -t "$1"
                cp .cache/*.jar "$1/.cache" || true # if tests/jbang has fetched it
                chown -R alice "$2"; chmod 700 "$2"
                """, "sh", checkout.toString(), lab.home.toString());
        var prefix = lab.work.resolve("prefix");
        Files.createDirectory(prefix);
        var asAlice = List.of("setpriv", "--reuid=alice", "--regid=alice", "--init-groups", "env",
                "-C", checkout.toString(),
                "HOME=" + lab.home, "PREFIX=" + prefix, "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                        "JAVA_HOME=" + System.getProperty("java.home"));
        var install = new ArrayList<>(asAlice);
        install.add("./install.sh");
        var installed = lab.run(install);
        assertEquals(0, installed.exit(), installed.toString());
        assertTrue(Files.exists(prefix.resolve("lib/knockknock/knockknock.aot")),
                installed.toString());
        assertEquals("", lab.must("find", prefix.toString(), "!", "-user", "root"));
        install.add("--remove");
        assertEquals(0, lab.run(install).exit());
        assertEquals("", lab.must("find", prefix.toString(), "!", "-type", "d"));
        assertFalse(Files.exists(Path.of("/etc/rsyslog.d/10-knockknock.conf")));
    }
}
