import java.math.BigInteger;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.util.List;

/** IP addresses as people write them; no name is looked up. */
final class Addresses {
    private Addresses() {}

    /** Whether {@code text} is an IPv4 or IPv6 address, and no name. */
    static boolean isAddress(String text) {
        try {
            InetAddress.ofLiteral(text);
            return true;
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    /** Reads an IPv4 or IPv6 address. */
    static InetAddress read(String text) {
        if (!isAddress(text)) {
            throw new Failure("'" + text + "' is not an address");
        }
        return InetAddress.ofLiteral(text);
    }

    /** Whether an address is in a range such as 192.0.2.0/24. */
    static boolean isIn(String range, InetAddress address) {
        var prefix = InetAddress.ofLiteral(range.split("/")[0]).getAddress();
        int rest = prefix.length * 8 - Integer.parseInt(range.split("/")[1]);
        return prefix.length == address.getAddress().length && new BigInteger(1, prefix)
                .xor(new BigInteger(1, address.getAddress())).shiftRight(rest).signum() == 0;
    }

    /** Those of IP version 4 or 6; all of them if it is 0. */
    static List<InetAddress> ofVersion(int version, List<InetAddress> addresses) {
        return addresses.stream().filter(address -> version == 0
                || version == (address instanceof Inet6Address ? 6 : 4)).toList();
    }
}
