# Print a hash's fields, one "name<TAB>value" a line, by nothing but a socket: HOST PORT KEY.
use strict;
use warnings;
use IO::Socket::INET;

my ($host, $port, $key) = @ARGV;
my $server = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port, Proto => 'tcp') or die "no server: $!";
binmode $server;
binmode STDOUT;
print $server "*2\r\n\$7\r\nHGETALL\r\n\$" . length($key) . "\r\n$key\r\n";
$server->flush;

sub line { my $read = <$server>; $read =~ s/\r\n$//; return $read }

my $count = line();
die "not an array: $count" unless $count =~ /^\*(\d+)$/;
for my $at (1 .. $1) {
    my $size = line();
    die "not a string: $size" unless $size =~ /^\$(\d+)$/;
    read($server, my $text, $1 + 2) == $1 + 2 or die "cut off";
    print substr($text, 0, -2), $at % 2 ? "\t" : "\n";
}
