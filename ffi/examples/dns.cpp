// A tiny server that answers out of the database.
//
//     dns [--once N] DIR
//
// A datagram holds a name, such as example.org; the answer is the value of the key
// zone/example.org, or NXDOMAIN. It prints the address that it listens on. With --once it answers
// N questions and ends.
//
//     c++ -std=c++17 -o dns dns.cpp $(pkg-config --cflags --libs quicksilver)
//     ./dns /var/lib/quicksilver/dns &
//     echo example.org | nc -u -w1 127.0.0.1 PORT
#include <quicksilver.hpp>

#include <arpa/inet.h>
#include <cctype>
#include <cerrno>
#include <iostream>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>

namespace {

// A UDP socket on a free port of loopback.
class Server {
public:
    Server() : fd_(socket(AF_INET, SOCK_DGRAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto *raw = reinterpret_cast<sockaddr *>(&address);
        if (fd_ < 0 || bind(fd_, raw, size) != 0 || getsockname(fd_, raw, &size) != 0)
            throw std::system_error(errno, std::generic_category(), "socket");
        std::cout << "listening on 127.0.0.1:" << ntohs(address.sin_port) << std::endl;
    }
    ~Server() { close(fd_); }
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;

    // Waits for a question and answers it; false when there was none after all.
    template <typename Answer> bool serve(Answer answer) {
        sockaddr_in client{};
        socklen_t size = sizeof client;
        auto *raw = reinterpret_cast<sockaddr *>(&client);
        char question[255];
        const ssize_t got = recvfrom(fd_, question, sizeof question, 0, raw, &size);
        if (got < 0)
            return false; // a signal, or a client that is gone
        const std::string reply = answer({question, static_cast<std::size_t>(got)});
        sendto(fd_, reply.data(), reply.size(), 0, raw, size);
        return true;
    }

private:
    int fd_;
};

std::string answer(const quicksilver::Reader &reader, std::string_view name) {
    std::string key = "zone/";
    for (const char c : name.substr(0, name.find_first_of(" \r\n")))
        key += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    try {
        return reader.get(key).value_or("NXDOMAIN");
    } catch (const quicksilver::Error &error) {
        // Say why, and go on: the next question may well have an answer.
        std::cerr << "dns: " << key << ": " << error.what() << '\n';
        return "SERVFAIL";
    }
}

} // namespace

int main(int argc, char **argv) try {
    long left = -1; // without end
    if (argc == 4 && std::string_view(argv[1]) == "--once") {
        left = std::stol(argv[2]);
    } else if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " [--once N] DIR\n";
        return 2;
    }
    const quicksilver::Reader reader(argv[argc - 1]);
    Server server;
    while (left != 0) {
        if (server.serve([&](std::string_view name) { return answer(reader, name); }) && left > 0)
            left--;
    }
    return 0;
} catch (const std::exception &error) {
    std::cerr << "dns: " << error.what() << '\n';
    return 1;
}
