require spacevpx.inc
