import java.io.EOFException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.WritableByteChannel;
import java.nio.charset.StandardCharsets;

/** The server's side of SOCKS version 5 (RFC 1928): no authentication, and CONNECT only. */
final class Socks {
    static final int SUCCEEDED = 0;
    static final int GENERAL_FAILURE = 1;
    static final int NETWORK_UNREACHABLE = 3;
    static final int HOST_UNREACHABLE = 4;
    static final int CONNECTION_REFUSED = 5;
    static final int COMMAND_NOT_SUPPORTED = 7;
    static final int ADDRESS_TYPE_NOT_SUPPORTED = 8;

    private static final int VERSION = 5;
    private static final int NO_AUTHENTICATION = 0;
    private static final int NONE_ACCEPTABLE = 0xFF;
    private static final int CONNECT = 1;
    private static final InetSocketAddress NO_ADDRESS =
            new InetSocketAddress(InetAddress.ofLiteral("0.0.0.0"), 0);

    private Socks() {}

    /** Where a client wants to go; {@code host} is a name, or an address as the JDK writes it. */
    record Request(String host, int port) {}

    /** A request that is to be answered with {@code code}. */
    static final class Refused extends IOException {
        final int code;

        Refused(int code, String message) {
            super(message);
            this.code = code;
        }
    }

    /** A client that speaks what the message names. */
    static final class OtherProtocol extends IOException {
        OtherProtocol(String name) {
            super(name);
        }
    }

    /** Agrees with the client on no authentication, and reads its request and not a byte more. */
    static <C extends ReadableByteChannel & WritableByteChannel> Request accept(C client)
            throws IOException {
        var greeting = read(client, 2);
        byte version = greeting.get();
        if (version != VERSION) {
            throw new OtherProtocol(version == 4 ? "SOCKS version 4"
                    : Character.isUpperCase(version) ? "HTTP" : "something else");
        }
        var methods = read(client, Byte.toUnsignedInt(greeting.get()));
        boolean acceptable = false;
        while (methods.hasRemaining()) {
            acceptable |= methods.get() == NO_AUTHENTICATION;
        }
        write(client, ByteBuffer.allocate(2).put((byte) VERSION)
                .put((byte) (acceptable ? NO_AUTHENTICATION : NONE_ACCEPTABLE)));
        if (!acceptable) {
            throw new IOException("the client insists on authentication");
        }
        var request = read(client, 4);
        if (request.get() != VERSION) {
            throw new IOException("not SOCKS version 5");
        }
        byte command = request.get();
        request.get(); // reserved
        var host = switch (request.get()) {
            case 1 -> InetAddress.getByAddress(read(client, 4).array()).getHostAddress();
            case 3 -> name(read(client, Byte.toUnsignedInt(read(client, 1).get())).array());
            case 4 -> InetAddress.getByAddress(read(client, 16).array()).getHostAddress();
            default -> throw new Refused(ADDRESS_TYPE_NOT_SUPPORTED, "unknown address type");
        };
        int port = Short.toUnsignedInt(read(client, 2).getShort());
        if (command != CONNECT) {
            throw new Refused(COMMAND_NOT_SUPPORTED, "only CONNECT is supported");
        }
        if (port == 0) {
            throw new Refused(CONNECTION_REFUSED, "nothing has port 0");
        }
        return new Request(host, port);
    }

    private static String name(byte[] bytes) throws IOException {
        var name = new String(bytes, StandardCharsets.ISO_8859_1);
        if (!name.matches("[A-Za-z0-9._:%-]+|\\[[0-9A-Fa-f:.]+]")) {
            throw new Refused(HOST_UNREACHABLE, "not a host name");
        }
        return name;
    }

    /** Answers a request: a code, and the address that the connection was made from. */
    static void reply(WritableByteChannel client, int code, InetSocketAddress bound)
            throws IOException {
        var address = bound.getAddress().getAddress();
        write(client, ByteBuffer.allocate(6 + address.length)
                .put((byte) VERSION).put((byte) code).put((byte) 0)
                .put((byte) (address.length == 4 ? 1 : 4)).put(address)
                .putShort((short) bound.getPort()));
    }

    static void reply(WritableByteChannel client, int code) throws IOException {
        reply(client, code, NO_ADDRESS);
    }

    private static ByteBuffer read(ReadableByteChannel in, int length) throws IOException {
        var bytes = ByteBuffer.allocate(length);
        while (bytes.hasRemaining()) {
            if (in.read(bytes) < 0) {
                throw new EOFException("the client went away");
            }
        }
        return bytes.flip();
    }

    private static void write(WritableByteChannel out, ByteBuffer bytes) throws IOException {
        bytes.flip();
        while (bytes.hasRemaining()) {
            out.write(bytes);
        }
    }
}
