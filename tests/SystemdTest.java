import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The server as its admin gets it: install.sh, and the unit under a real systemd. */
class SystemdTest extends InLab {
    /**
     * Makes a machine of its namespaces, and boots it: a small set of units, and nothing of what it
     * changes is the real one's. Its rsyslog does nothing.
     */
    private static final String BOOT = """
            mount -t tmpfs -o mode=755 tmpfs /run
            mkdir -p /run/etc /run/checkout /run/units/sysinit.target.wants
            cp -a /etc/. /run/etc
            mount --bind /run/etc /etc
            mount --bind "$PWD" /run/checkout
            mount -t tmpfs -o mode=755 tmpfs /usr/local
            mkdir -p /usr/local/bin /usr/local/lib /usr/local/share/man
            mount -t tmpfs tmpfs /tmp
            mount -t tmpfs tmpfs /var/tmp
            mount --bind /dev/null /dev/console
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            ! getent passwd knockknock > /dev/null || userdel knockknock
            rm -rf /etc/systemd /etc/rsyslog.d/10-knockknock.conf /etc/knockknock.d
            mkdir -p /etc/systemd/system
            printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\n' > /etc/systemd/journald.conf
            cd /lib/systemd/system
            cp -a basic.target sysinit.target multi-user.target shutdown.target sockets.target \
            network.target \
                network-pre.target nftables.service systemd-journald.service \
            systemd-journald.socket /run/units
            ln -s ../systemd-journald.service /run/units/sysinit.target.wants
            printf '[Service]\\nExecStart=/usr/bin/sleep infinity\\n' > /run/units/rsyslog.service
            exec env -i container=knock PATH=/usr/sbin:/usr/bin \
            SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units \
                /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal \
            --show-status=no
            """;
    private static final String CGROUP = "/sys/fs/cgroup/system.slice/knockknock-daemon.service/";
    private static final String NFTABLES_CONF = """
            flush ruleset
            table inet host {
                chain input {
                    type filter hook input priority filter; policy drop;
                    ct state established,related accept
                }
            }
            """;

    private Process machine;
    private Path cgroup;
    private String pid; // of systemd

    @AfterEach
    void shutDown() throws Exception {
        if (machine != null) {
            // systemd, and with it all that it started
            machine.descendants().forEach(ProcessHandle::destroyForcibly);
            machine.waitFor();
            var remove = List.of("find", cgroup.toString(), "-depth", "-type", "d", "-exec",
                    "rmdir", "{}", ";");
            Lab.await("its control groups to go", () -> lab.run(remove).err().isEmpty());
            lab.must("umount", cgroup.getParent().toString());
        }
    }

    private void boot() throws Exception {
        var cgroups = Files.createDirectory(lab.work.resolve("cgroup"));
        lab.must("mount", "-t", "cgroup2", "cgroup2", cgroups.toString());
        cgroup = Files.createDirectory(cgroups.resolve(lab.work.getFileName()));
        machine = lab.start(lab.work.resolve("systemd"),
                List.of("sh", "-c", "echo $$ > $0/cgroup.procs && exec \"$@\"",
                cgroup.toString(), "ip", "netns", "exec", "server", "unshare", "--pid", "--fork",
                        "--kill-child",
                "--mount", "--mount-proc", "--uts", "--ipc", "--cgroup", "sh", "-euc", BOOT));
        Lab.await("the machine's first process", () -> machine.children().findAny().isPresent());
        pid = "" + machine.children().findAny().orElseThrow().pid();
        Lab.await(() -> "systemd: " + Files.readString(lab.work.resolve("systemd")),
                () -> lab.run(inside(
                "systemctl is-active multi-user.target systemd-journald")).out()
                        .equals("active\nactive\n"));
    }

    /** A shell command for the machine. */
    private List<String> inside(String text) {
        return List.of("nsenter", "-t", pid, "-a", "sh", "-euc", text);
    }

    private String sh(String text) throws Exception {
        return lab.must(inside(text));
    }

    /** What the admin sees of the service, after the times in seconds. */
    private String journal() throws Exception {
        return sh("journalctl -q -o short-unix -u knockknock-daemon");
    }

    private List<Double> times(String message) throws Exception {
        return journal().lines().filter(line -> line.contains(message))
                .map(line -> Double.valueOf(line.split(" ")[0])).toList();
    }

    private void awaitTimes(String message, int count) throws Exception {
        Lab.await(() -> count + " times '" + message + "': " + journal(),
                () -> times(message).size() >= count);
    }

    /** One knock, one connection. */
    private void assertAKnockOpens() throws Exception {
        assertFalse(lab.connects(Lab.SERVER, 22));
        int opened = times("opened port 22 for " + Lab.CLIENT).size();
        lab.must(lab.knockCommand("-p", "22", Lab.SERVER));
        awaitTimes("opened port 22 for " + Lab.CLIENT, opened + 1);
        assertTrue(lab.connects(Lab.SERVER, 22), journal());
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    /**
     * Every name, link and content in /etc and /usr/local, but for the copies and the lock of
     * useradd.
     */
    private String files() throws Exception {
        return sh("""
                find /etc /usr/local ! -name '*-' ! -name .pwd.lock -printf '%M %u %p %l\\n' | sort
                find /etc /usr/local ! -name '*-' ! -name .pwd.lock -type f -exec md5sum {} + | sort
                """);
    }

    @Test
    void theServiceIsInstalledServesThroughReloadsAndCrashesAndGoesAwayUnderSystemd(
            ) throws Exception {
        lab.serve(22);
        boot();
        var root = Path.of("/proc/" + pid + "/root");
        Files.writeString(root.resolve("etc/nftables.conf"), NFTABLES_CONF);
        var before = files();
        sh("systemctl start rsyslog");
        var logger = sh("systemctl show -P MainPID rsyslog");
        sh("cd /run/checkout && JAVA_HOME=" + System.getProperty("java.home") + " ./install.sh");
        assertFalse(sh("systemctl show -P MainPID rsyslog").equals(logger),
                "rsyslog has not been restarted");

        // Without a profile it says so itself, and systemd does not spin.
        sh("""
                cp /run/checkout/knockknock-daemon.service /etc/systemd/system
                systemctl daemon-reload
                systemctl enable --now knockknock-daemon
                """);
        var complaint = "there is no profile in /etc/knockknock.d/profiles: make one with "
                + "knockknock-genprofile";
        awaitTimes(complaint, 2);
        assertTrue(times(complaint).get(1) - times(complaint).get(0) > 4.5, journal());
        assertFalse(journal().contains("NAMESPACE"), journal());

        // With one the next start succeeds.
        sh("/usr/local/bin/knockknock-genprofile --open 22 laptop 666");
        lab.must("cp", "-a", root + "/etc/knockknock.d/profiles/laptop",
                lab.clientProfile(Lab.SERVER).toString());
        awaitTimes("ready: knock ports 666, log /dev/kmsg, user knockknock", 1);
        assertOnlyTheFirewallHalfHasACapabilityAndNobodyIsRoot();
        assertAKnockOpens();

        // A reload of the host's rules leaves it alone.
        var daemon = sh("systemctl show -P MainPID knockknock-daemon");
        sh("systemctl restart nftables");
        awaitTimes("knockknock: the log rule was changed: it is made anew", 1);
        // not the Lab's
        Lab.await("the tables", () -> sh("nft list tables | sort")
                .equals("table inet host\ntable inet knockknock\n"));
        assertAKnockOpens();
        assertEquals(daemon, sh("systemctl show -P MainPID knockknock-daemon"));

        // When the firewall half is killed, systemd starts both again.
        sh("kill -9 $(pgrep -P " + daemon.strip() + ")");
        awaitTimes("knockknock: the firewall half has ended", 1);
        awaitTimes("ready:", 2);
        assertAKnockOpens();

        // Where nft is missing it says so, and systemd tries again until it is there.
        sh("mount --bind /dev/null /usr/sbin/nft && systemctl restart knockknock-daemon");
        Lab.await("the error", () -> sh("journalctl -u knockknock-daemon")
                .contains("firewall half cannot work here"));
        sh("umount /usr/sbin/nft");
        awaitTimes("ready:", 3);
        assertAKnockOpens();

        // Stopped and removed, it leaves nothing.
        sh("systemctl disable --now knockknock-daemon");
        assertEquals("success\n", sh("systemctl show -P Result knockknock-daemon"));
        assertEquals("", sh("ps -o args= -u knockknock || true"));
        assertEquals("table inet host\n", sh("nft list tables"));
        sh("""
                rm -r /etc/systemd/system/knockknock-daemon.service /etc/knockknock.d
                systemctl daemon-reload
                cd /run/checkout && ./install.sh --remove
                """);
        assertFalse(sh("ls -a /run /tmp /var/tmp").contains("knock"),
                sh("ls -a /run /tmp /var/tmp"));
        assertEquals(before, files());
    }

    private void assertOnlyTheFirewallHalfHasACapabilityAndNobodyIsRoot() throws Exception {
        var ids = sh("id -u knockknock; id -g knockknock").lines().toList();
        // the daemon and its half
        assertEquals(2, sh("cat " + CGROUP + "cgroup.procs").lines().count());
        assertEquals("""
                CapPrm: 0000000000000000
                CapPrm: 0000000000001000
                Gid: G G G G
                Groups:
                NoNewPrivs: 1
                Seccomp: 2
                Uid: U U U U
                """.replace(" U", " " + ids.get(0)).replace(" G", " " + ids.get(1)),
                sh("for thread in $(cat " + CGROUP + "cgroup.threads); do"
                + " grep -E '^(Uid|Gid|Groups|CapPrm|NoNewPrivs|Seccomp):' /proc/$thread/status "
                        + "|| true;"
                + " done | sed -E 's/[[:space:]]+/ /g; s/ $//' | sort -u"));
    }

    @Test
    void theUnitMakesNoOrderingCycleWithAnRsyslogThatStartsAfterTheNetwork() throws Exception {
        var units = Files.createDirectory(lab.work.resolve("units"));
        Files.writeString(units.resolve("rsyslog.service"), """
                [Unit]
                Wants=network.target network-online.target
                After=network.target network-online.target
                [Service]
                ExecStart=/usr/bin/true
                """);
        Files.writeString(units.resolve("machine.target"), """
                [Unit]
                Wants=knockknock-daemon.service rsyslog.service network.target
                After=knockknock-daemon.service rsyslog.service
                """);
        var unit = Files.readString(Path.of("knockknock-daemon.service"))
                .replace("/usr/local/bin/knockknock-daemon", "/usr/bin/true");
        var verify = List.of("systemd-analyze", "verify", "--man=no",
                units.resolve("machine.target").toString());
        Files.writeString(units.resolve("knockknock-daemon.service"), unit);
        assertEquals(new Lab.Result(0, "", ""), lab.run(verify));
        Files.writeString(units.resolve("knockknock-daemon.service"),
                unit.replace("[Unit]\n", "[Unit]\nBefore=network.target\nAfter=rsyslog.service\n"));
        assertTrue(lab.run(verify).err().contains("Found ordering cycle on"));
    }
}
