import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.net.Inet4Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

import static java.nio.charset.StandardCharsets.US_ASCII;

/**
 * A netlink socket (netlink(7)) to the kernel's netfilter; it decides nothing. Names and numbers
 * are those of linux/netlink.h (NLM*, NLA_*) and, in linux/netfilter, nfnetlink.h (NFNL*),
 * nfnetlink_conntrack.h (IPCTNL_*, CTA_*), nf_tables.h (NFT*), nf_conntrack_common.h (IPS_*) and
 * nf_conntrack_tcp.h. What the kernel makes of them is in net/netfilter/nf_conntrack_netlink.c.
 */
final class Netfilter {
    // NFNL_SUBSYS_CTNETLINK, _CTNETLINK_EXP and _NFTABLES; IPCTNL_MSG_* and NFT_MSG_*
    static final int CT_NEW = 1 << 8, EXP_NEW = 2 << 8, EXP_GET = 2 << 8 | 1;
    static final int EXP_DELETE = 2 << 8 | 2, GETRULE = 10 << 8 | 7, NEWGEN = 10 << 8 | 15;
    private static final int ACK = 4, EXCL = 0x200, CREATE = 0x400, DUMP = 0x300; // NLM_F_*
    private static final int DONE = 3; // NLMSG_DONE; NLMSG_ERROR is 2: each ends an answer
    private static final int AF_NETLINK = 16, SOCK_RAW = 3, NETLINK_NETFILTER = 12;
    private static final int AF_INET = 2, AF_INET6 = 10, NFPROTO_INET = 1, IPPROTO_TCP = 6;
    private static final int NESTED = 0x8000; // NLA_F_NESTED
    private static final int ENOENT = 2, EEXIST = 17, ENOBUFS = 105;
    private static final SecureRandom RANDOM = new SecureRandom();

    /** One connection, or for UDP one flow, from any port: as CTA_EXPECT_TUPLE has it. */
    record Flow(int family, ByteBuffer tuple) {
        Flow(InetAddress from, InetAddress to, int protocol, int port) {
            this(from instanceof Inet4Address ? AF_INET : AF_INET6,
                    ByteBuffer.wrap(Netfilter.tuple(2, from, to, protocol, 0, port)));
        }

        /** That of a message about an expectation, which begins with it. */
        Flow(ByteBuffer message) {
            var tuple = Arrays.copyOfRange(message.array(), 20, 20 + message.getShort(20));
            this(message.get(16), ByteBuffer.wrap(tuple)); // struct nfgenmsg: family
        }
    }

    private final ByteBuffer buffer = // more than the kernel sends at once
            ByteBuffer.allocateDirect(1 << 16).order(ByteOrder.nativeOrder());
    private final long address = MemorySegment.ofBuffer(buffer).address();
    private final long socket =
            Libc.must("socket", AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);

    /** With {@code groups}, a bit for each NFNLGRP_*, it hears what the kernel tells everybody. */
    Netfilter(int groups) {
        buffer.putShort(0, (short) AF_NETLINK).putInt(8, groups); // struct sockaddr_nl
        Libc.must("bind", socket, address, 12);
    }

    /** Waits for messages, each from its struct nlmsghdr on. None: the kernel has lost some. */
    List<ByteBuffer> receive() {
        long length = Libc.call("recv", socket, address, buffer.capacity(), 0);
        if (length < 0 && length != -ENOBUFS) {
            throw new Failure("netfilter does not answer (" + Libc.errno(-length) + ")");
        }
        var messages = new ArrayList<ByteBuffer>();
        for (int at = 0; at < length; at += buffer.getInt(at) + 3 & ~3) { // NLMSG_ALIGN
            var message = new byte[buffer.getInt(at)];
            buffer.get(at, message);
            messages.add(ByteBuffer.wrap(message).order(ByteOrder.nativeOrder()));
        }
        return messages;
    }

    static int type(ByteBuffer message) {
        return message.getShort(4);
    }

    /** Sends messages in one go; returns what the kernel says until it has answered each. */
    private synchronized List<ByteBuffer> exchange(byte[]... messages) {
        var request = join(messages);
        buffer.put(0, request);
        Libc.must("send", socket, address, request.length, 0);
        var said = new ArrayList<ByteBuffer>();
        while (said.stream().filter(m -> type(m) <= DONE).count() < messages.length) {
            if (!said.addAll(receive())) {
                throw new Failure("an answer of netfilter's got lost");
            }
        }
        return said;
    }

    /** How many rules a chain of a table of family inet has. */
    int rules(String table, String chain) { // NFTA_RULE_TABLE, NFTA_RULE_CHAIN
        return exchange(message(GETRULE, DUMP, NFPROTO_INET, text(1, table), text(2, chain))).size()
                - 1; // the NLMSG_DONE behind them
    }

    /** Looks for a flow's expectation (EXP_GET), or ends it (EXP_DELETE): 0, or an errno. */
    int about(int type, Flow flow) {
        return error(exchange(message(type, ACK, flow.family, flow.tuple.array())).getLast());
    }

    private static int error(ByteBuffer answer) {
        return -answer.getInt(16);
    }

    /**
     * Expects {@code flow} for as many seconds: 0, or an errno and nothing is expected. The flow's
     * first packet is then RELATED to the expectation's master, and uses it up.
     */
    int expect(Flow flow, long seconds) {
        // The kernel wants a master with a helper, and ftp's is everywhere. It opens what it reads
        // in its master's packets: so the master is made up, and lies on loopback between two
        // random ports, and no packet is its own.
        int family = flow.family;
        var own = InetAddress.ofLiteral(family == AF_INET ? "127.0.0.1" : "::1");
        var ones = InetAddress.ofLiteral(family == AF_INET ? "255.255.255.255"
                : "ffff" + ":ffff".repeat(7));
        int x = 1 + RANDOM.nextInt(65535), y = 1 + RANDOM.nextInt(65535);
        var time = number(4, (int) seconds);
        var master = tuple(1, own, own, IPPROTO_TCP, x, y); // CTA_TUPLE_ORIG, CTA_EXPECT_MASTER
        byte[][] expectation = {flow.tuple.array(), master,
            tuple(3, ones, ones, IPPROTO_TCP, 0, 65535), // CTA_EXPECT_MASK: from any port
            attribute(4, time)}; // CTA_EXPECT_TIMEOUT
        var said = exchange(message(CT_NEW, ACK | CREATE | EXCL, family, master,
                        tuple(2, own, own, IPPROTO_TCP, y, x), // CTA_TUPLE_REPLY
                        attribute(3, number(4, 8 | 4)), // CTA_STATUS: IPS_CONFIRMED, without which
                        // it is EBUSY, and IPS_ASSURED, without which a full table drops it
                        attribute(NESTED | 4, attribute(NESTED | 1, // CTA_PROTOINFO, _TCP
                                attribute(1, number(1, 1)))), // _TCP_STATE: TCP_CONNTRACK_SYN_SENT
                        attribute(NESTED | 5, text(1, "ftp")), // CTA_HELP, CTA_HELP_NAME
                        attribute(7, time)), // CTA_TIMEOUT
                // The kernel gives a new expectation its helper's 300 seconds. They are changed in
                // the same go, as this process could end between two.
                message(EXP_NEW, ACK | CREATE | EXCL, family, expectation),
                message(EXP_NEW, ACK, family, expectation));
        int made = error(said.get(0)), added = error(said.get(1)), timed = error(said.get(2));
        if (made == 0 && added == 0 && (timed == 0 || timed == ENOENT)) {
            return 0; // ENOENT: it was used before its time was changed
        } else if (added == 0) {
            about(EXP_DELETE, flow); // leave nothing open
        }
        return made == EEXIST ? expect(flow, seconds) // there is such a master: another one
                : made != 0 ? made : added != 0 ? added : timed;
    }

    private static byte[] tuple(int type, InetAddress from, InetAddress to, int protocol,
            int fromPort, int toPort) {
        int v6 = from instanceof Inet4Address ? 0 : 2;
        return attribute(NESTED | type,
                attribute(NESTED | 1, // CTA_TUPLE_IP
                        attribute(1 + v6, from.getAddress()), // CTA_IP_V4_SRC, CTA_IP_V6_SRC
                        attribute(2 + v6, to.getAddress())), // CTA_IP_V4_DST, CTA_IP_V6_DST
                attribute(NESTED | 2, attribute(1, number(1, protocol)), // CTA_TUPLE_PROTO, _NUM
                        attribute(2, number(2, fromPort)), // CTA_PROTO_SRC_PORT
                        attribute(3, number(2, toPort)))); // CTA_PROTO_DST_PORT
    }

    /** As many bytes, big-endian. */
    private static byte[] number(int length, int value) {
        return Arrays.copyOfRange(ByteBuffer.allocate(4).putInt(value).array(), 4 - length, 4);
    }

    private static byte[] text(int type, String value) {
        return attribute(type, (value + '\0').getBytes(US_ASCII));
    }

    /** struct nlattr: length, type; then what it holds, and zeros up to a multiple of 4. */
    private static byte[] attribute(int type, byte[]... contents) {
        var body = join(contents);
        return ByteBuffer.allocate(4 + body.length + 3 & ~3).order(ByteOrder.nativeOrder())
                .putShort((short) (4 + body.length)).putShort((short) type).put(body).array();
    }

    /** struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: family, 3 zeros. */
    private static byte[] message(int type, int flags, int family, byte[]... attributes) {
        var body = join(attributes);
        return ByteBuffer.allocate(20 + body.length).order(ByteOrder.nativeOrder())
                .putInt(20 + body.length).putShort((short) type)
                .putShort((short) (1 | flags)) // NLM_F_REQUEST
                .put(16, (byte) family).put(20, body).array();
    }

    private static byte[] join(byte[]... parts) {
        var all = new ByteArrayOutputStream();
        List.of(parts).forEach(all::writeBytes);
        return all.toByteArray();
    }

    /** Hands text to nft(8), which ends when it has done it. */
    static void nft(String text) {
        try {
            var nft = new ProcessBuilder("nft", "-f", "-").redirectErrorStream(true).start();
            nft.outputWriter(US_ASCII).append(text).close();
            var said = new String(nft.getInputStream().readAllBytes(), US_ASCII);
            if (nft.onExit().join().exitValue() != 0) {
                throw new IOException(said);
            }
        } catch (IOException e) {
            throw new Failure("nft: " + e.getMessage());
        }
    }
}
